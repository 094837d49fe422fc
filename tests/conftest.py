"""Fixtures that several stages share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory) -> Path:
    """Folder of a tiny random RGBA StableDiffusionPipeline of 32 px; read only."""
    from tests.pipelines import write_pipeline

    return write_pipeline(tmp_path_factory.mktemp("model") / "pipeline")
