"""The models of a service, as the driver and a replica know them."""

import pytest
import torch
from safetensors.torch import save_file

from emoji_ldm.config import build
from emoji_ldm.errors import ModelError
from emoji_ldm.generate.checkpoint_resolver import LORA_FILE
from ray_jobs.serving.model_registry import ModelLoader, served_models


@pytest.fixture
def config(tmp_path, tiny_pipeline):
    (tmp_path / "blobs").mkdir()
    save_file({"unet.nowhere.lora_A.weight": torch.zeros(1, 1)}, tmp_path / "blobs" / LORA_FILE)
    values = {"checkpoint": str(tiny_pipeline), "models": {"more": str(tiny_pipeline)}, "max_steps": 50,
              "loras": {"blobs": str(tmp_path / "blobs")}}  # fmt: skip
    return build({"run": "tiny", "store": str(tmp_path / "store"), "serve": values}, where="test")


def test_what_models_allow_is_known_before_any_is_loaded(config):
    tiny, more = (model.limits for model in served_models(config))
    assert (tiny.model, more.model) == ("tiny", "more")
    assert (tiny.width_px, tiny.side_step_px, tiny.max_side_px, tiny.max_steps) == (32, 4, 64, 50)
    assert tiny.loras == ("blobs",) and tiny.schedulers[0] == "ddim"


def test_an_adapter_that_fits_only_some_models_stops_only_the_default_one(config):
    from emoji_ldm.generate.warmup import warm_up_with_adapters

    tiny, more = (ModelLoader(config, served) for served in served_models(config))
    model = more.load()
    assert more.adapters(model) == {}
    with pytest.raises(ModelError, match="blobs"):
        warm_up_with_adapters(model, tiny.adapters(model), 1, deterministic=True)
