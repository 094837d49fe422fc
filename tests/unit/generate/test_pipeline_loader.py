"""Loading a pipeline folder."""

import json
import os
import shutil

import pytest
import torch

from emoji_ldm.errors import ModelError
from emoji_ldm.generate.pipeline_loader import load_model, sampling_device


def test_a_pipeline_folder_loads_with_its_shapes(tiny_pipeline):
    model = load_model(tiny_pipeline, "cpu")
    assert model.latent_shape == model.vae.latent_shape == (4, 16, 16)
    assert (model.size_px, model.downsampling_factor) == (32, 2)
    assert model.encode_prompt("a cat").shape == (1, 16, 32)


@pytest.mark.parametrize("part", ["unet", "text_encoder", "model_index.json"])
def test_a_folder_that_is_no_pipeline_is_refused_with_what_is_missing(tiny_pipeline, tmp_path, part):
    folder = shutil.copytree(tiny_pipeline, tmp_path / "broken")
    shutil.rmtree(folder / part, ignore_errors=True)
    (folder / part).unlink(missing_ok=True)
    with pytest.raises(ModelError, match=f"broken is not a StableDiffusionPipeline folder: {part} missing"):
        load_model(folder)


def test_damaged_weights_are_reported_with_one_line(tiny_pipeline, tmp_path):
    folder = shutil.copytree(tiny_pipeline, tmp_path / "damaged")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match=r"cannot load .*unet"):
        load_model(folder, "cpu")


def test_a_unet_that_takes_more_than_a_latent_is_refused(tiny_pipeline, tmp_path):
    folder = shutil.copytree(tiny_pipeline, tmp_path / "other")
    path = folder / "vae" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "latent_channels": 9}))
    with pytest.raises(ModelError, match="only text-to-image models work"):
        load_model(folder, "cpu")


def test_a_hub_id_that_cannot_be_reached_is_reported_with_one_line():
    with pytest.raises(ModelError, match="no model of that name could be downloaded"):
        load_model("nobody/nothing")


@pytest.fixture
def cudnn(monkeypatch):
    """cuDNN's settings; those of the process are restored afterwards."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    cudnn, fill = torch.backends.cudnn, torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings = cudnn.benchmark, cudnn.deterministic, fill.fill_uninitialized_memory
    torch.use_deterministic_algorithms(False)
    yield cudnn
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    cudnn.benchmark, cudnn.deterministic, fill.fill_uninitialized_memory = settings
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def test_only_deterministic_sampling_on_a_gpu_restricts_the_kernels_of_the_process(cudnn):
    before = cudnn.enabled, cudnn.allow_tf32
    assert sampling_device(1, deterministic=False) == "cuda" and not torch.are_deterministic_algorithms_enabled()
    assert sampling_device(1) == "cuda"
    assert torch.are_deterministic_algorithms_enabled() and cudnn.deterministic and not cudnn.benchmark
    assert (cudnn.enabled, cudnn.allow_tf32) == before and cudnn.enabled
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_sampling_on_a_cpu_uses_one_thread():
    torch.set_num_threads(2)
    try:
        assert sampling_device(0) == "cpu" and torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(1)
