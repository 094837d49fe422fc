"""`emoji-ldm adapters`: adapters out of a fine-tuned pipeline, two of them as one, and mistakes."""

from __future__ import annotations

import shutil

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel

from ray_jobs.cli.main import main


@pytest.mark.slow
def test_a_fine_tuned_pipeline_becomes_an_adapter_and_two_of_them_one(tiny_pipeline, tmp_path, capfd):
    tuned = tmp_path / "tuned"
    shutil.copytree(tiny_pipeline, tuned)
    unet = UNet2DConditionModel.from_pretrained(tuned / "unet")
    torch.manual_seed(0)
    weight = unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight
    change = torch.randn(len(weight), 1) @ torch.randn(1, weight.shape[1]) * 0.1
    weight.data += change
    unet.save_pretrained(tuned / "unet")
    assert (
        main(["adapters", "extract", str(tiny_pipeline), str(tuned), "--rank", "2", "-o", str(tmp_path / "one")]) == 0
    )
    both = [f"{tmp_path / 'one'}=0.5", f"{tmp_path / 'one'}=0.25"]
    assert main(["adapters", "merge", *both, "-o", str(tmp_path / "both")]) == 0
    assert f"generate.lora={tmp_path / 'both'}" in capfd.readouterr().err
    pipeline = DiffusionPipeline.from_pretrained(tiny_pipeline)
    pipeline.load_lora_weights(tmp_path / "both")
    pipeline.fuse_lora()
    layer = pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
    fused = getattr(layer, "base_layer", layer).weight
    torch.testing.assert_close(fused, weight - change + 0.75 * change, atol=1e-5, rtol=0)


@pytest.mark.parametrize("words, error", [
    (["extract", "a", "b", "--rank", "0", "-o", "new"], "--rank=0 is refused"),
    (["extract", "gone", "gone", "-o", "new"], "no model folder"),
    (["merge", "a=much", "-o", "new"], "give FOLDER or FOLDER=FACTOR"),
    (["merge", "gone", "-o", "new"], "cannot read the adapters"),
    (["merge", "a", "-o", "full"], "give a new or empty folder"),
])  # fmt: skip
def test_mistakes_are_one_line(words, error, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full" / "file").mkdir(parents=True)
    assert main(["adapters", *words]) != 0
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert error in line
