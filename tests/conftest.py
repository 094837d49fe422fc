"""Settings and fixtures that the tests of several stages share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# A shell without job control starts background commands with SIGINT ignored, and their children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault(
    "HF_HUB_OFFLINE", "1"
)  # a folder that is missing fails at once instead of after the hub's retries


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory) -> Path:
    """Folder of a tiny random RGBA StableDiffusionPipeline of 32 px; read only."""
    from tests.tiny_pipelines import write_pipeline

    return write_pipeline(tmp_path_factory.mktemp("model") / "pipeline")
