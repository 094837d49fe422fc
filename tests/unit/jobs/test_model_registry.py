"""The models of a service: what the driver knows of them, and what a replica loads and writes into its images."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from emoji_ldm.config import build
from emoji_ldm.dataset import checkpoints
from emoji_ldm.errors import ModelError, StoreError, UntrainedError
from emoji_ldm.generate.checkpoint_resolver import LORA_FILE, lora_key
from emoji_ldm.generate.warmup import warm_up_with_adapters
from emoji_ldm.store import Store
from ray_jobs.serving import model_registry
from ray_jobs.serving.model_registry import ModelLoader, ServedModel, served_models


def config(tmp_path, **serve):
    return build({"run": "tiny", "store": str(tmp_path / "store"), "serve": serve}, where="test")


@pytest.fixture
def two_models(tmp_path, tiny_pipeline):
    """Two models on one pipeline, and an adapter that fits neither."""
    (tmp_path / "blobs").mkdir()
    save_file({"unet.nowhere.lora_A.weight": torch.zeros(1, 1)}, tmp_path / "blobs" / LORA_FILE)
    return config(
        tmp_path, checkpoint=str(tiny_pipeline), models={"more": str(tiny_pipeline)}, max_steps=50,
        loras={"blobs": str(tmp_path / "blobs")},
    )  # fmt: skip


def test_limits_of_models_are_known_before_any_is_loaded(two_models):
    tiny, more = (model.limits for model in served_models(two_models))
    assert (tiny.model, more.model) == ("tiny", "more")
    assert (tiny.width_px, tiny.side_step_px, tiny.max_side_px, tiny.max_steps) == (32, 4, 64, 50)
    assert tiny.loras == ("blobs",) and tiny.schedulers[0] == "ddim"


def test_an_adapter_that_fits_only_some_models_stops_only_the_default_one(two_models):
    tiny, more = (ModelLoader(two_models, served) for served in served_models(two_models))
    model = more.load()
    assert more.adapters(model) == {}
    with pytest.raises(ModelError, match="blobs"):
        warm_up_with_adapters(model, tiny.adapters(model), 1, deterministic=True)


def test_a_new_replica_starts_with_the_resolved_weights_if_the_alias_was_deleted(tmp_path):
    loader = ModelLoader(config(tmp_path, reload_s=1), ServedModel("live", "alias:live", "file:///resolved", None))
    assert loader.uri == "file:///resolved"


def test_loaded_weights_are_in_use_only_once_the_replica_says_so(tmp_path, tiny_pipeline):
    loader = ModelLoader(config(tmp_path), ServedModel("tiny", str(tiny_pipeline), str(tiny_pipeline), None))
    loader.uri = "former"
    loader.load(str(tiny_pipeline))
    assert loader.uri == "former"


def test_an_image_with_an_adapter_names_the_data_of_its_own_weights(tmp_path, tiny_pipeline, monkeypatch):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / LORA_FILE).write_bytes(b"weights")
    versions = iter([{"images": 1}, {"images": 2}])
    monkeypatch.setattr(model_registry, "training_data_versions", lambda store, uri: next(versions))
    served = ServedModel("tiny", str(tiny_pipeline), str(tiny_pipeline), None)
    loader = ModelLoader(config(tmp_path, loras={"flat": str(folder)}), served)
    model = loader.load()
    monkeypatch.setattr("emoji_ldm.generate.pipeline_loader.load_model", lambda *_: SimpleNamespace(key="other"))
    loader.load()
    assert loader._versions[lora_key(model.key, folder)] == {"images": 1}


def test_without_a_checkpoint_the_starter_is_served_until_there_is_one(tmp_path, tiny_starter, tiny_pipeline, capsys):
    settings = config(tmp_path, reload_s=1)
    (served,) = served_models(settings)
    assert "run 'tiny' has no checkpoint yet: the packaged starter model draws" in capsys.readouterr().err
    assert (served.uri, served.limits.width_px, served.limits.schedulers[0]) == ("starter", 16, "dpmpp_2m")
    loader = ModelLoader(settings, served)
    assert loader.current_uri() == "starter" and loader.load().size_px == 16
    path = f"checkpoints/tiny/unet/{checkpoints.folder_name(1)}"
    store = Store(settings.store)
    store.upload(tiny_pipeline, path, "pipeline")
    checkpoints.publish_checkpoint(store, path, {"step": 1})
    assert loader.current_uri() == f"{store.uri}/{path}"


def test_without_weights_the_service_says_what_is_missing(tmp_path, no_starter):
    with pytest.raises(UntrainedError, match="has no unet checkpoint; make one with"):
        served_models(config(tmp_path))


def publish(store, pipeline, step):
    path = f"checkpoints/tiny/unet/{checkpoints.folder_name(step)}"
    store.upload(pipeline, path, "pipeline")
    return checkpoints.publish_checkpoint(store, path, {"step": step})


def test_a_replica_that_starts_after_the_first_checkpoint_was_deleted_loads_the_newest(
    tmp_path, tiny_pipeline, monkeypatch
):
    monkeypatch.setattr(model_registry, "LOAD_PAUSE_S", 0)
    settings = config(tmp_path)
    store = Store(settings.store)
    first = publish(store, tiny_pipeline, 100)
    (served,) = served_models(settings)  # at deployment
    second = publish(store, tiny_pipeline, 200)
    checkpoints.prune_checkpoints(store, "tiny", "unet", 1)
    loader = ModelLoader(settings, served)
    assert loader.uri == first.uri
    assert loader.load_first().size_px == 32
    assert loader.uri == second.uri


def test_a_replica_waits_until_the_weights_can_be_loaded(tmp_path, tiny_pipeline, monkeypatch, caplog):
    monkeypatch.setattr(model_registry, "LOAD_PAUSE_S", 0)
    settings = config(tmp_path)
    store = Store(settings.store)
    publish(store, tiny_pipeline, 100)
    loader = ModelLoader(settings, served_models(settings)[0])
    real, failures = loader.load, [StoreError("no answer"), ModelError("damaged")]
    monkeypatch.setattr(loader, "load", lambda: real() if not failures else raised(failures.pop()))
    with caplog.at_level("WARNING", logger="ray.serve"):
        assert loader.load_first().size_px == 32
    assert "cannot be loaded" in caplog.text and "damaged" in caplog.text and "no answer" in caplog.text


def test_weights_that_never_change_fail_at_once(tmp_path, tiny_pipeline, monkeypatch):
    loader = ModelLoader(config(tmp_path), ServedModel("tiny", str(tiny_pipeline), str(tiny_pipeline), None))
    monkeypatch.setattr(loader, "load", lambda: raised(ModelError("damaged")))
    with pytest.raises(ModelError, match="damaged"):
        loader.load_first()


def raised(error):
    raise error
