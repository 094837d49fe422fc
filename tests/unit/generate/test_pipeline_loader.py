import os
import shutil

import pytest
import torch

from emoji_ldm.config import build
from emoji_ldm.dataset import checkpoints
from emoji_ldm.errors import ModelError
from emoji_ldm.generate.checkpoint_resolver import model_key, resolve_checkpoint
from emoji_ldm.generate.pipeline_loader import load_model, sampling_device
from emoji_ldm.store import Store
from tests.tiny_pipelines import write_pipeline


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


@pytest.fixture
def config(store):
    return build({"run": "r", "store": store.uri}, where="test")


def publish(store, pipeline, step=1):
    path = f"checkpoints/r/unet/{checkpoints.folder_name(step)}"
    store.upload(pipeline, path, "pipeline")
    return checkpoints.publish_checkpoint(store, path, {"step": step})


def test_a_pipeline_folder_loads_with_its_shapes(tiny_pipeline):
    model = load_model(tiny_pipeline, "cpu")
    assert model.latent_shape == model.codec.latent_shape == (4, 16, 16)
    assert model.size_px == 32
    assert model.encode("a cat").shape == (1, 16, 32)


def test_the_key_tells_weights_and_noise_schedules_apart_but_not_copies(tiny_pipeline, tmp_path):
    copy = shutil.copytree(tiny_pipeline, tmp_path / "copy")
    others = [write_pipeline(tmp_path / "seed", seed=1), write_pipeline(tmp_path / "v", prediction_type="sample")]
    assert model_key(copy) == model_key(tiny_pipeline)
    assert len({model_key(folder) for folder in (tiny_pipeline, *others)}) == 3


@pytest.mark.parametrize("part", ["unet", "text_encoder", "model_index.json"])
def test_a_folder_that_is_no_pipeline_is_named_with_what_is_missing(tiny_pipeline, tmp_path, part):
    folder = shutil.copytree(tiny_pipeline, tmp_path / "broken")
    shutil.rmtree(folder / part, ignore_errors=True)
    (folder / part).unlink(missing_ok=True)
    with pytest.raises(ModelError, match=f"broken is not a StableDiffusionPipeline folder: {part} missing"):
        load_model(folder)


def test_damaged_weights_are_one_line(tiny_pipeline, tmp_path):
    folder = shutil.copytree(tiny_pipeline, tmp_path / "damaged")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match=r"cannot load .*unet"):
        load_model(folder, "cpu")


def test_a_hub_id_that_cannot_be_reached_is_one_line():
    with pytest.raises(ModelError, match="the hub does not give a model of that name"):
        load_model("nobody/nothing")


def test_the_newest_checkpoint_of_the_run_is_the_default(config, store, tiny_pipeline, tmp_path):
    publish(store, tiny_pipeline, 1)
    newest = publish(store, tiny_pipeline, 2)
    folder, uri = resolve_checkpoint(config, store, tmp_path, "")
    assert uri == newest.uri and model_key(folder) == model_key(tiny_pipeline)


def test_a_checkpoint_is_found_by_folder_path_in_the_store_and_uri(config, store, tiny_pipeline, tmp_path):
    published = publish(store, tiny_pipeline)
    for name in (published.path, published.uri, str(tiny_pipeline), str(tiny_pipeline.parent)):
        folder, uri = resolve_checkpoint(config, store, tmp_path, name)
        assert model_key(folder) == model_key(tiny_pipeline)
        assert resolve_checkpoint(config, store, tmp_path, uri) == (folder, uri)


def test_without_a_checkpoint_the_command_that_makes_one_is_named(config, store, tmp_path):
    with pytest.raises(ModelError, match="emoji-ldm train run=r"):
        resolve_checkpoint(config, store, tmp_path, "")
    with pytest.raises(ModelError, match="neither a pipeline folder"):
        resolve_checkpoint(config, store, tmp_path, "./nothing/here")


@pytest.fixture
def settings(monkeypatch):
    """Of the process; as they were, afterwards."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    cudnn, fill = torch.backends.cudnn, torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    kept = cudnn.benchmark, cudnn.deterministic, fill.fill_uninitialized_memory
    torch.use_deterministic_algorithms(False)
    yield cudnn
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    cudnn.benchmark, cudnn.deterministic, fill.fill_uninitialized_memory = kept
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def test_strict_sampling_on_gpus_settles_the_kernels_of_the_process_and_keeps_cudnn(settings):
    before = settings.enabled, settings.allow_tf32
    assert sampling_device(1, strict=False) == "cuda" and not torch.are_deterministic_algorithms_enabled()
    assert sampling_device(1) == "cuda"
    assert torch.are_deterministic_algorithms_enabled() and settings.deterministic and not settings.benchmark
    assert (settings.enabled, settings.allow_tf32) == before and settings.enabled
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
