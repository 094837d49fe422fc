"""What a model can draw, by its files."""

import json
import shutil

import pytest

from emoji_ldm.errors import ModelError
from emoji_ldm.generate.checkpoint_resolver import read_model_limits
from emoji_ldm.generate.continuous_batching.batcher import ContinuousBatcher
from emoji_ldm.generate.pipeline_loader import load_model
from tests.tiny_pipelines import write_pipeline


@pytest.mark.parametrize("scheduler", [{}, {"prediction_type": "v_prediction", "num_train_timesteps": 500}])
def test_files_tell_what_the_loaded_model_tells(tmp_path, scheduler):
    folder = write_pipeline(tmp_path / "pipeline", **scheduler)
    batcher = ContinuousBatcher(
        load_model(folder, "cpu"), batch_size=1, strict=True, max_queued=1, finish=lambda *_: b""
    )
    try:
        assert read_model_limits(folder) == batcher.bounds()
    finally:
        batcher.close()


def test_a_flow_model_has_the_schedulers_of_flow(tmp_path, tiny_pipeline):
    shutil.copytree(tiny_pipeline, tmp_path / "flow")
    path = tmp_path / "flow" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}))
    assert read_model_limits(tmp_path / "flow").schedulers == ("flow_euler",)


def test_what_is_no_model_of_square_pictures_is_one_line(tmp_path, tiny_pipeline):
    shutil.copytree(tiny_pipeline, tmp_path / "wide")
    path = tmp_path / "wide" / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sample_size": [8, 16]}))
    with pytest.raises(ModelError, match="square"):
        read_model_limits(tmp_path / "wide")
    with pytest.raises(ModelError, match="StableDiffusionPipeline"):
        read_model_limits(tmp_path)
