"""Fixtures of the sampling tests: one thread, and a tiny model of 16 px."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tiny networks on a busy machine: threads that wait for each other cost more than they gain."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory):
    """A random RGBA model of 16 px, whose latents are (4, 8, 8)."""
    from emoji_ldm.generate.pipeline_loader import load_model
    from tests.tiny_pipelines import write_pipeline

    return load_model(write_pipeline(tmp_path_factory.mktemp("small") / "pipeline", size_px=16), "cpu")


@pytest.fixture(autouse=True)
def no_native_bf16(monkeypatch):
    """The fast mode in float32, as on most CPUs: its batching is then seen to more digits than bf16 has."""
    from emoji_ldm.generate import unet_runner

    monkeypatch.setattr(unet_runner, "has_native_bf16", lambda: False)
