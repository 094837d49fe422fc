"""The loop without Ray: it learns, resumes bit by bit, stops in time, and exports pipelines that open."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from emoji_ldm.dataset import checkpoints
from emoji_ldm.errors import JobError, ModelError
from emoji_ldm.train import run_fencing
from emoji_ldm.train.loop import fit
from emoji_ldm.train.metrics import training_metrics
from emoji_ldm.train.tasks import diffusion_task
from emoji_ldm.train.training_args import build_training_args
from tests.latents_store import fill_latents, training_config
from tests.unit.train import tiny
from tests.unit.train.tiny import store_of

CPU = torch.device("cpu")


def run(folder, *overrides, owner_token=""):
    config = tiny.config(*overrides)
    run_context = dataclasses.replace(tiny.run_context(config, folder), owner_token=owner_token)
    return fit(tiny.task(config), build_training_args(config, "train"), run_context, CPU)


def state_of(folder):
    newest = checkpoints.newest_checkpoint(store_of(folder), "tiny", "unet").fetch(folder / "cache", "state")
    return {name: tensor for path in newest.glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.mark.slow
def test_training_lowers_the_loss(tmp_path):
    run(tmp_path, "train.steps=120", "train.lr=5e-3", "train.checkpoint_every=120", "train.log_every=10")
    losses = [line["loss"] for line in training_metrics.read_log(store_of(tmp_path), "tiny")]
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])


@pytest.mark.slow
def test_an_interrupted_run_resumes_bit_by_bit(tmp_path):
    run(tmp_path / "whole")
    run(tmp_path / "cut")
    store = store_of(tmp_path / "cut")
    store.delete(checkpoints.newest_checkpoint(store, "tiny", "unet").path)  # as if it had died after step 4
    run(tmp_path / "cut")
    whole, cut = state_of(tmp_path / "whole"), state_of(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    logs = [training_metrics.read_log(store_of(tmp_path / name), "tiny") for name in ("whole", "cut")]
    assert [line["step"] for line in logs[1]] == [2, 4, 6, 8]
    assert [line["loss"] for line in logs[0]] == [line["loss"] for line in logs[1]]


@pytest.mark.slow
def test_the_manifest_records_where_the_weights_come_from(tmp_path):
    run(tmp_path)
    manifest = checkpoints.newest_checkpoint(store_of(tmp_path), "tiny", "unet").manifest()
    assert manifest["versions"] == {"images": 3, "latents": 5}
    assert manifest["config"]["train"]["steps"] == 8
    assert {"step", "code", "num_workers", "zero_stage", "num_images", "num_parameters"} <= manifest.keys()


@pytest.mark.slow
def test_a_loss_that_stays_not_finite_stops_the_run_and_leaves_whole_checkpoints(tmp_path):
    config = tiny.config("train.steps=80", "train.checkpoint_every=4")
    task = tiny.task(config)
    healthy = task.loss
    task.loss = lambda forward, drawn: (
        healthy(forward, drawn) * (float("nan") if task.calls.append(0) or len(task.calls) > 6 else 1)
    )
    task.calls = []
    with pytest.raises(JobError, match="20 steps in a row were skipped, the last is step 26"):
        fit(task, build_training_args(config, "train"), tiny.run_context(config, tmp_path), CPU)
    lines = training_metrics.read_log(store_of(tmp_path), "tiny")
    assert lines[-1]["skipped"] == 18 and "loss" not in lines[-1]
    assert all(tensor.isfinite().all() for tensor in state_of(tmp_path).values())


@pytest.mark.slow
def test_a_run_that_was_taken_over_publishes_nothing(tmp_path):
    token = run_fencing.claim_run(store_of(tmp_path), "tiny", "train")
    run_fencing.claim_run(store_of(tmp_path), "tiny", "train")
    with pytest.raises(JobError, match="another driver took over"):
        run(tmp_path, owner_token=token)
    assert checkpoints.complete_checkpoints(store_of(tmp_path), "tiny", "unet") == []


@pytest.mark.slow
def test_another_network_does_not_load_the_runs_checkpoint(tmp_path):
    run(tmp_path)
    with pytest.raises(ModelError, match="another network"):
        run(tmp_path, "train.steps=10", "train.block_out_channels=[8,24]", "train.num_heads=4")


@pytest.mark.slow
def test_a_checkpoint_opens_as_a_diffusers_pipeline_with_the_averaged_weights(tmp_path, tiny_pipeline):
    config = training_config(tiny_pipeline, tmp_path / "store", "train.steps=2", "train.num_workers=1",
                             "train.zero_stage=0", "train.sample_every=2")  # fmt: skip
    fill_latents(config)
    run_context = dataclasses.replace(tiny.run_context(config, tmp_path))
    png = tmp_path / "grid.png"
    from PIL import Image

    Image.new("RGB", (8, 8)).save(png)
    seen = []
    task = diffusion_task.load_task(
        run_context, lambda folder, prompts, originals: seen.append(prompts) or {"samples": png.read_bytes()}
    )
    fit(task, build_training_args(config, "train"), run_context, CPU)
    assert len(seen[0]) == 8
    assert run_context.store.exists("runs", "tiny", "train", "samples", "step-00000002.png")
    folder = checkpoints.newest_checkpoint(run_context.store, "tiny", "unet").fetch(tmp_path / "cache", "pipeline")
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    state = checkpoints.newest_checkpoint(run_context.store, "tiny", "unet").fetch(tmp_path / "cache", "state")
    averaged = load_file(next(state.glob("*.safetensors")))["ema/unet.conv_in.weight@0"]
    assert torch.equal(pipeline.unet.conv_in.weight.flatten(), averaged)
    assert pipeline.scheduler.config.clip_sample is False
    image = pipeline("a blob", num_inference_steps=2, output_type="np").images
    assert image.shape == (1, 32, 32, 4)
