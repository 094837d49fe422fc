"""Batches of latents, captions and noise."""

from __future__ import annotations

import torch

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
