"""Training on images of several shapes: what a batch holds, what SDXL is told, and resuming bit by bit."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from emoji_ldm.config import load
from emoji_ldm.dataset import checkpoints
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import ConfigError
from emoji_ldm.schemas import IMAGES
from emoji_ldm.store import Store
from emoji_ldm.train.loop import fit
from emoji_ldm.train.tasks.diffusion_task import load_task
from emoji_ldm.train.training_args import RunContext, build_training_args
from tests.bucketed_store import BUCKETS, PIPELINE_OBJECTIVE, SIDES, bucketed_config, fill_bucketed
from tests.tiny_flow_pipelines import write_flux, write_sdxl
from tests.unit.train import tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tiny_pipeline, tmp_path_factory):
    torch.set_num_threads(1)
    found = bucketed_config(tiny_pipeline, tmp_path_factory.mktemp("buckets") / "store")
    fill_bucketed(found)
    return found


def context(config, folder):
    return RunContext(config, Store(config.store), folder / "scratch")


def changed(config, **fields):
    return config.model_copy(update={"train": config.train.model_copy(update=fields)})


def test_every_batch_has_images_of_one_shape_and_their_true_sizes(config, tmp_path):
    task, seen = load_task(context(config, tmp_path)), {}
    files = Table(Store(config.store), IMAGES).read(["image_id", "image"]).to_pylist()
    stored = {row["image_id"]: Image.open(io.BytesIO(row["image"]["bytes"])).size[::-1] for row in files}
    buckets = task.data.latents.buckets
    for step in range(120):
        rows, _ = task.data.sample_rows(step, range(4))
        batch = task.prepare_batch(step, range(4))
        assert batch.latents.shape == batch.noise.shape == (4, *task.data.shape_of(rows[0]))
        for row, sizes in zip(rows, batch.sizes.int().tolist(), strict=True):
            assert tuple(sizes[:2]) == stored[task.data.latents.image_ids[row]]
            assert sizes[4:] == [2 * side for side in batch.latents.shape[2:]]
            seen[int(row)] = tuple(batch.latents.shape[2:])
    assert len(seen) == len(SIDES) and len(set(seen.values())) == len(set(buckets.bucket.tolist())) >= 4
    # A batch trains, whatever its shape.
    loss = {step: task.loss(task.module, task.prepare_batch(step, range(4))) for step in range(12)}
    assert all(torch.isfinite(each) for each in loss.values())


def test_ranks_together_get_the_batch_of_one(config, tmp_path):
    task = load_task(context(config, tmp_path))
    for step in (0, 7, 31):
        whole = task.prepare_batch(step, range(4))
        parts = [task.prepare_batch(step, range(first, first + 2)) for first in (0, 2)]
        for name in ("latents", "noise", "timesteps", "text", "sizes"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


def test_validation_weighs_every_image_of_every_bucket_alike(config, tmp_path):
    task = load_task(context(changed(config, validation_fraction=0.6), tmp_path))
    batches = list(task.validation_batches(range(4)))
    weights = torch.stack([batch.weights for batch in batches])
    assert weights.mean() == pytest.approx(1) and len({*weights.flatten().tolist()} - {0.0}) == 1
    assert int((weights > 0).sum()) == len(task.data.validation_rows)


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_a_run_that_was_cut_short_goes_on_bit_by_bit(tiny_pipeline, config, tmp_path, lora):
    options = ["train.steps=9", "train.checkpoint_every=4", "train.num_workers=1", f"run={'lora' if lora else 'whole'}"]
    if lora:
        options += [f"train.init={tiny_pipeline}", "train.lora={rank: 2}", *PIPELINE_OBJECTIVE]
        shape = ["train.block_out_channels=[128,256,256]", "train.layers_per_block=2", "train.num_heads=4"]
    else:
        shape = []
    again = bucketed_config(tiny_pipeline, config.store, *options, *shape)

    def trained():
        where = context(again, tmp_path)
        fit(load_task(where), build_training_args(again, "train"), where, torch.device("cpu"))
        found = checkpoints.newest_checkpoint(Store(again.store), again.run, "unet")
        files = sorted((found.fetch(tmp_path / "cache") / "state").glob("*.safetensors"))
        return found, {(file.name, name): tensor for file in files for name, tensor in load_file(file).items()}

    newest, whole = trained()
    Store(again.store).delete(newest.path)
    assert checkpoints.newest_checkpoint(Store(again.store), again.run, "unet").step == 8
    _, resumed = trained()
    assert whole and whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_sdxl_is_told_the_size_and_crop_of_each_image(tmp_path):
    config = load("sdxl-lora", [
        f"store={tmp_path / 'store'}", f"train.init={write_sdxl(tmp_path / 'sdxl')}", "latents.size_px=32", BUCKETS,
        "latents.max_tokens=16", "latents.augmentations=null", "train.lora=null", "train.validation_fraction=0",
        "latents.gpus_per_worker=0", "train.batch_size=4",
    ])  # fmt: skip
    fill_bucketed(config)
    task, calls = load_task(tiny.run_context(config, tmp_path)), []
    task.module.network.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(kwargs["added_cond_kwargs"]["time_ids"]), with_kwargs=True
    )
    cropped = 0
    for step in range(12):
        batch = task.prepare_batch(step, range(4))
        assert torch.isfinite(task.loss(task.module, batch))
        assert torch.equal(calls[-1], batch.sizes)
        cropped += int((batch.sizes[:, 2:4] > 0).any())
    assert cropped, "some images are cropped"


def test_flux_shifts_times_by_the_size_of_the_batch_and_takes_any_bucket(tmp_path):
    config = load("flux-lora", [
        f"store={tmp_path / 'store'}", f"train.init={write_flux(tmp_path / 'flux')}", "latents.size_px=32", BUCKETS,
        "latents.max_tokens=16", "train.lora=null", "train.validation_fraction=0", "latents.gpus_per_worker=0",
        "train.batch_size=4",
    ])  # fmt: skip
    fill_bucketed(config)
    task = load_task(tiny.run_context(config, tmp_path))
    shifts = {task.data._timed(shape).flow_shift for shape in [(8, 16, 16), (8, 8, 8)]}
    assert len(shifts) == 2
    assert np.isfinite(float(task.loss(task.module, task.prepare_batch(0, range(4)))))


def test_a_network_that_cannot_take_a_bucket_is_refused_with_the_option(tiny_pipeline, config, tmp_path):
    deep = bucketed_config(tiny_pipeline, config.store, "train.block_out_channels=[8,8,8,8]")
    with pytest.raises(ConfigError, match=r"sides that 8 divides.*raise latents.buckets.step_px"):
        load_task(context(deep, tmp_path))
