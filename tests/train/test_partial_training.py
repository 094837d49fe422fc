"""Frozen weights, adapters and recomputed activations under ZeRO 3, where no rank has a whole weight."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from tests.latents_store import fill_latents, training_config
from tests.tiny_pipelines import write_pipeline
from tests.train import ranks_partial

LORA = ("train.lora={rank: 2, alpha: 4}", "train.gradient_checkpointing=true")
CASES = {
    "adapters": LORA,
    "dora": ("train.lora={rank: 2, alpha: 4, dora: true, text_encoder: true}",),
    "pattern": ("train.trainable_pattern=attn2", "train.gradient_checkpointing=true"),
}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return write_pipeline(folder / "pipeline", prediction_type="v_prediction", beta_start=0.00085, beta_end=0.012)


def unet(checkpoint):
    return UNet2DConditionModel.from_pretrained(Path(checkpoint) / "pipeline" / "unet").state_dict()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_shards_of_what_learns_give_the_pipeline_that_one_process_gives(two, start, tmp_path, case):
    found = []
    for workers, stage in ((1, 0), (2, 3)):
        shape = ("train.block_out_channels=[128,256,256]", "train.layers_per_block=2", "train.num_heads=4")
        config = training_config(start, tmp_path / f"store-{workers}", f"train.init={start}", "train.steps=3", *shape,
                                 f"train.num_workers={workers}", f"train.zero_stage={stage}", *CASES[case])  # fmt: skip
        fill_latents(config)
        found.append(unet(two.run(ranks_partial.train, config)[0] if workers > 1 else ranks_partial.train(config)))
    before = UNet2DConditionModel.from_pretrained(start / "unet").state_dict()
    alone, shared = found
    changed = {name for name in before if not torch.equal(before[name], shared[name])}
    assert changed == {name for name in before if not torch.equal(before[name], alone[name])}
    assert changed and all("attn" in name for name in changed)
    for name in before:
        torch.testing.assert_close(shared[name], alone[name], rtol=1e-4, atol=2e-5)
