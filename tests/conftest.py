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


@pytest.fixture
def no_starter(tmp_path, monkeypatch) -> None:
    """An installation without the weights of the starter."""
    from emoji_ldm.latents import starter_model

    monkeypatch.setattr(starter_model, "PACKAGED_FOLDER", tmp_path / "no-starter")


@pytest.fixture(scope="session")
def starter_package(tmp_path_factory) -> Path:
    """A tiny random starter, packed; read only."""
    from tests.tiny_starter import write_tiny_starter

    return write_tiny_starter(tmp_path_factory.mktemp("starter") / "package")


@pytest.fixture
def tiny_starter(starter_package, tmp_path_factory, monkeypatch) -> Path:
    """This installation has the tiny starter; returns the folder that it is unpacked into."""
    from emoji_ldm.latents import starter_model

    monkeypatch.setattr(starter_model, "PACKAGED_FOLDER", starter_package)
    # One cache for all tests: unpacking loads the text encoder.
    monkeypatch.setattr(starter_model, "CACHE_FOLDER", starter_package.parent / "cache")
    return starter_model.starter_folder()
