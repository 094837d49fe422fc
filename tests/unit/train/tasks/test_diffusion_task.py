"""Batches of latents, captions and noise; previews: prompts, and validation images beside images of their captions."""

from __future__ import annotations

import io
from functools import partial

import pytest
import torch
from PIL import Image

from emoji_ldm.config import GenerateConfig
from emoji_ldm.train.tasks.diffusion_task import load_task
from ray_jobs.execution.sample_grids import preview
from tests.latents_store import fill_latents, training_config
from tests.unit.train import tiny


def test_captions_are_the_images_own_or_the_empty_one():
    task = tiny.task(tiny.config())
    assert {task.data._caption(0, 0.5, choice) for choice in (0.0, 0.49, 0.5, 0.99)} == {1, 7}
    assert task.data._caption(0, 0.05, 0.0) == 0


def test_a_step_sees_the_same_batch_whole_or_shared():
    task = tiny.task(tiny.config())
    whole, halves = (
        task.prepare_batch(3, range(4)),
        [task.prepare_batch(3, range(2)), task.prepare_batch(3, range(2, 4))],
    )
    for name in ("latents", "noise", "timesteps", "text"):
        assert torch.equal(torch.cat([getattr(half, name) for half in halves]), getattr(whole, name))
    assert whole.text.shape == (4, 6, 12)


def size_of(png):
    return Image.open(io.BytesIO(png)).size


@pytest.mark.slow
def test_validation_images_are_shown_beside_images_drawn_for_their_captions(tmp_path, tiny_pipeline):
    torch.set_num_threads(1)
    config = training_config(
        tiny_pipeline, tmp_path / "store", "train.validation_fraction=0.5", "train.sample_prompts=[a, b]"
    )
    fill_latents(config)
    task = load_task(tiny.run_context(config, tmp_path), partial(preview, GenerateConfig(steps=1, num_images=2)))
    task.export({name: tensor.detach() for name, tensor in task.module.named_parameters()}, tmp_path)
    captions = [caption for _, caption in task.originals]
    held = [task.data.latents.captions[task.data.latents.caption_indices[row][0]] for row in task.data.validation_rows]
    assert captions == held[:8]
    grids = task.preview(tmp_path)
    assert grids.keys() == {"samples", "pairs"}
    assert size_of(grids["samples"])[0] == size_of(grids["pairs"])[0]  # four cards in a row each
    assert size_of(grids["pairs"])[1] >= len(held) / 2 * 150


def test_without_validation_images_there_are_no_pairs(tmp_path, tiny_pipeline):
    config = training_config(tiny_pipeline, tmp_path / "store", "train.sample_prompts=[a]")
    fill_latents(config)
    seen = []
    task = load_task(tiny.run_context(config, tmp_path), lambda *given: seen.append(given) or {})
    assert task.preview(tmp_path) == {}
    assert seen == [(tmp_path / "pipeline", ("a",), [])]
