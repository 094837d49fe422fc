"""Finding a model, its key and its limits by its files alone."""

import json
import shutil

import pytest

from emoji_ldm.config import build
from emoji_ldm.dataset import checkpoints
from emoji_ldm.dataset.checkpoint_aliases import set_alias
from emoji_ldm.errors import ModelError, UntrainedError
from emoji_ldm.generate.checkpoint_resolver import (
    LORA_FILE,
    adapter_folder,
    is_moving_reference,
    lora_key,
    model_key,
    read_model_limits,
    resolve_checkpoint,
    training_data_versions,
)
from emoji_ldm.generate.continuous_batching.batcher import ContinuousBatcher
from emoji_ldm.generate.pipeline_loader import load_model
from emoji_ldm.store import Store
from emoji_ldm.train.manifest import CONFIG_VERSION
from tests.tiny_pipelines import write_pipeline


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


@pytest.fixture
def config(store):
    return build({"run": "r", "store": store.uri}, where="test")


def publish(store, pipeline, step=1, **facts):
    path = f"checkpoints/r/unet/{checkpoints.folder_name(step)}"
    store.upload(pipeline, path, "pipeline")
    return checkpoints.publish_checkpoint(store, path, {"step": step, **facts})


def test_the_key_tells_weights_and_noise_schedules_apart_but_not_copies(tiny_pipeline, tmp_path):
    copy = shutil.copytree(tiny_pipeline, tmp_path / "copy")
    others = [write_pipeline(tmp_path / "seed", seed=1), write_pipeline(tmp_path / "v", prediction_type="sample")]
    assert model_key(copy) == model_key(tiny_pipeline)
    assert len({model_key(folder) for folder in (tiny_pipeline, *others)}) == 3


def test_the_newest_checkpoint_of_the_run_is_the_default(config, store, tiny_pipeline, tmp_path):
    publish(store, tiny_pipeline, 1)
    newest = publish(store, tiny_pipeline, 2)
    folder, uri = resolve_checkpoint(config, store, tmp_path, "")
    assert uri == newest.uri and model_key(folder) == model_key(tiny_pipeline)


def test_the_starter_is_named_or_stands_in_for_a_first_checkpoint(config, store, tiny_pipeline, tmp_path, tiny_starter):
    assert resolve_checkpoint(config, store, tmp_path, "starter") == (tiny_starter, "starter")
    assert resolve_checkpoint(config, store, tmp_path, "") == (tiny_starter, "starter")
    assert training_data_versions(store, "starter") == {}
    assert resolve_checkpoint(config, store, tmp_path, "")[1] != publish(store, tiny_pipeline).uri
    assert resolve_checkpoint(config, store, tmp_path, "")[1] != "starter"


def test_without_its_weights_nothing_stands_in(config, store, tmp_path, no_starter):
    with pytest.raises(UntrainedError):
        resolve_checkpoint(config, store, tmp_path, "")
    with pytest.raises(ModelError, match="no weights of the starter model"):
        resolve_checkpoint(config, store, tmp_path, "starter")


def test_a_checkpoint_is_found_by_folder_path_in_the_store_and_uri(config, store, tiny_pipeline, tmp_path):
    published = publish(store, tiny_pipeline)
    for name in (published.path, published.uri, str(tiny_pipeline), str(tiny_pipeline.parent)):
        folder, uri = resolve_checkpoint(config, store, tmp_path, name)
        assert model_key(folder) == model_key(tiny_pipeline)
        assert resolve_checkpoint(config, store, tmp_path, uri) == (folder, uri)


def test_a_checkpoint_of_adapters_alone_names_the_command_that_draws_with_it(config, store, tmp_path, no_starter):
    path = f"checkpoints/r/unet/{checkpoints.folder_name(1)}"
    store.write(b"weights", path, "lora", LORA_FILE)
    recorded = {"config": {"train": {"init": "some/base"}}, "config_version": CONFIG_VERSION}
    published = checkpoints.publish_checkpoint(store, path, {"step": 1, **recorded})
    with pytest.raises(ModelError, match=f"generate.checkpoint=some/base generate.lora={published.uri}"):
        resolve_checkpoint(config, store, tmp_path, "")


@pytest.mark.parametrize("prefix", ["alias:", "tag:"])
def test_an_alias_may_name_another_checkpoint_later_and_its_old_prefix_still_works(
    config, store, tiny_pipeline, tmp_path, prefix
):
    published = publish(store, tiny_pipeline)
    set_alias(store, "best", published.path)
    assert is_moving_reference(f"{prefix}best") and not is_moving_reference(published.uri)
    assert resolve_checkpoint(config, store, tmp_path, f"{prefix}best")[1] == published.uri


def test_without_a_checkpoint_the_command_that_makes_one_is_named(config, store, tmp_path, no_starter):
    with pytest.raises(ModelError, match="emoji-ldm train run=r"):
        resolve_checkpoint(config, store, tmp_path, "")
    with pytest.raises(ModelError, match="neither a pipeline folder"):
        resolve_checkpoint(config, store, tmp_path, "./nothing/here")


def test_a_checkpoint_states_the_versions_that_it_was_trained_on(store, tiny_pipeline):
    published = publish(store, tiny_pipeline, versions={"images": 4})
    assert training_data_versions(store, published.uri) == {"images": 4}
    assert training_data_versions(store, str(tiny_pipeline)) == {}


@pytest.mark.parametrize("inside", ["", "lora", "pipeline/lora"])
def test_adapters_are_found_in_a_folder_and_in_that_of_a_checkpoint(store, tmp_path, inside):
    (tmp_path / "local" / inside).mkdir(parents=True)
    (tmp_path / "local" / inside / LORA_FILE).write_bytes(b"weights")
    store.write(b"weights", "remote", *inside.split("/"), LORA_FILE)
    local = adapter_folder(store, tmp_path / "cache", "generate.lora", str(tmp_path / "local"))
    remote = adapter_folder(store, tmp_path / "cache", "generate.lora", "remote")
    assert lora_key("m", local) == lora_key("m", remote) != lora_key("n", local)


def test_a_missing_adapter_is_reported_with_its_option(store, tmp_path):
    with pytest.raises(ModelError, match=r"generate.lora=nowhere: no pytorch_lora_weights.safetensors there"):
        adapter_folder(store, tmp_path, "generate.lora", "nowhere")


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", [{}, {"prediction_type": "v_prediction", "num_train_timesteps": 500}])
def test_files_give_the_limits_of_the_loaded_model(tmp_path, scheduler):
    folder = write_pipeline(tmp_path / "pipeline", **scheduler)
    batcher = ContinuousBatcher(
        load_model(folder, "cpu"), batch_size=1, deterministic=True, max_queued=1, encode_image=lambda *_: b""
    )
    try:
        assert read_model_limits(folder) == batcher.limits()
    finally:
        batcher.close()


def test_a_flow_model_has_flow_schedulers(tmp_path, tiny_pipeline):
    shutil.copytree(tiny_pipeline, tmp_path / "flow")
    path = tmp_path / "flow" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}))
    assert read_model_limits(tmp_path / "flow").schedulers == ("flow_euler",)


def test_a_model_of_oblong_images_is_refused_with_one_line(tmp_path, tiny_pipeline):
    shutil.copytree(tiny_pipeline, tmp_path / "wide")
    path = tmp_path / "wide" / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sample_size": [8, 16]}))
    with pytest.raises(ModelError, match="square"):
        read_model_limits(tmp_path / "wide")
    with pytest.raises(ModelError, match="StableDiffusionPipeline"):
        read_model_limits(tmp_path)
