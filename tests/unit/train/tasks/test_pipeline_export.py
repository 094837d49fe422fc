"""The keys of frozen models that a manifest records, and the export that needs them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from emoji_ldm.dataset import checkpoints
from emoji_ldm.errors import ModelError
from emoji_ldm.latents.text_encoder import load_text_encoder
from emoji_ldm.latents.vae import load_vae
from emoji_ldm.latents.weights_hash import hash_weights
from emoji_ldm.model.unet import load_unet
from emoji_ldm.store import Store
from emoji_ldm.train.checkpoint_export import export_checkpoint
from emoji_ldm.train.export_description import ExportRequest
from emoji_ldm.train.loop import fit
from emoji_ldm.train.tasks import diffusion_task
from emoji_ldm.train.tasks.pipeline_export import base_weights_key
from emoji_ldm.train.training_args import build_training_args
from tests.latents_store import fill_latents, training_config
from tests.tiny_pipelines import write_pipeline
from tests.unit.train import tiny

SHAPE, WIDTH = (4, 16, 16), 32


def tuned(pipeline, store, *overrides):
    """A part of the pipeline's own network learns."""
    config = training_config(
        pipeline, store, f"train.init={pipeline}", "train.beta_start=0.0001", "train.prediction_type=epsilon",
        "train.beta_end=0.02", "train.steps=2", "train.num_workers=1", "train.zero_stage=0",
        "train.checkpoint_every=2", *overrides,
    )  # fmt: skip
    fields = type(config.train).model_fields
    plain = {name: fields[name].default for name in ("block_out_channels", "layers_per_block", "num_heads")}
    return config.model_copy(update={"train": config.train.model_copy(update=plain)})


@pytest.mark.slow
@pytest.mark.parametrize("partly", ["train.lora.rank=2", "train.trainable_pattern=attn2"])
def test_the_manifest_holds_the_keys_of_all_that_is_frozen(partly, tmp_path):
    pipeline = write_pipeline(tmp_path / "base")
    config = tuned(pipeline, tmp_path / "store", partly)
    fill_latents(config)
    run_context = tiny.run_context(config, tmp_path)
    fit(diffusion_task.load_task(run_context), build_training_args(config, "train"), run_context, torch.device("cpu"))
    (found,) = checkpoints.complete_checkpoints(Store(config.store), "tiny", "unet")
    manifest = found.check()
    base = load_unet(config.train, SHAPE, WIDTH)
    assert manifest["codec_key"] == load_vae(pipeline, size_px=32, background="white", device="cpu").key
    assert manifest["encoder_key"] == load_text_encoder(str(pipeline), max_tokens=16, device="cpu").key
    assert manifest["scaling_factor"] == 0.7
    assert manifest["base_key"] == hash_weights(base) == base_weights_key(base)

    export_checkpoint(config, ExportRequest("train", "raw"), tmp_path / "raw", tmp_path / "cache")
    shutil.rmtree(pipeline)
    write_pipeline(pipeline, seed=1)  # of the same shape
    with pytest.raises(ModelError, match=r"train\.init=.*base is not what this was trained on"):
        export_checkpoint(config, ExportRequest("train", "raw"), tmp_path / "other", tmp_path / "cache")
    assert not Path(tmp_path / "other").exists()
    export_checkpoint(config, ExportRequest("train"), tmp_path / "ema", tmp_path / "cache")
    assert json.loads((tmp_path / "ema" / "emoji_ldm.json").read_text())["step"] == 2


def test_a_network_that_learns_as_a_whole_needs_no_base(tmp_path, tiny_pipeline):
    config = tuned(tiny_pipeline, tmp_path / "store")
    fill_latents(config)
    assert "base_key" not in diffusion_task.load_task(tiny.run_context(config, tmp_path)).manifest_facts
