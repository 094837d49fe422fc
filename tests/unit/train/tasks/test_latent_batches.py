"""Batches of a set on disk are those of the same set in memory, and weights decide what is in them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from emoji_ldm.errors import DatasetError
from emoji_ldm.latents.latent_loading import DataVersion, load_latent_set
from emoji_ldm.store import Store
from emoji_ldm.train.tasks.diffusion_task import load_task
from emoji_ldm.train.tasks.latent_batches import sample_by_weight
from tests.latents_store import fill_latents, training_config
from tests.synthetic_latents import KEYS, fill_store
from tests.unit.train import tiny


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    store = Store(str(tmp_path_factory.mktemp("synthetic")))
    fill_store(store, 150, shape=(4, 8, 8), width=12, num_tokens=3)
    return load_latent_set([DataVersion(store)], KEYS)


@pytest.mark.parametrize("options", [(), ("train.caption_dropout=0.5", "train.validation_fraction=0.2")])
def test_a_set_on_disk_gives_the_batches_of_the_set_in_memory_bit_by_bit(on_disk, options):
    mean, logvar = (part[range(len(part))] for part in (on_disk.mean, on_disk.logvar))
    in_memory = dataclasses.replace(
        on_disk, image_ids=list(on_disk.image_ids), mean=mean, logvar=logvar, captions=list(on_disk.captions),
        caption_indices=list(on_disk.caption_indices), states=list(on_disk.states),
    )  # fmt: skip
    tasks = [tiny.task(tiny.config("train.batch_size=32", *options), data) for data in (on_disk, in_memory)]
    for step in (0, 4, 5, 70):
        one, other = (task.prepare_batch(step, range(16, 32)) for task in tasks)
        for name in ("latents", "noise", "timesteps", "text", "weights"):
            assert torch.equal(getattr(one, name), getattr(other, name))
    checks = [list(task.validation_batches(range(32))) for task in tasks]
    assert [len(one) for one in checks] == [len(checks[0])] * 2 and bool(checks[0]) == bool(options)
    assert tasks[0].prompts() == tasks[1].prompts() and tasks[0].manifest_facts == tasks[1].manifest_facts


def test_samples_of_weight_zero_are_never_drawn_and_need_not_be_held_out():
    weights = np.array([1.0, 0, 0, 1, 0, 0])
    config = tiny.config().train
    sample = sample_by_weight(weights)(config, np.arange(6))
    assert set(np.concatenate([sample(step, range(4))[0] for step in range(6)])) == {0, 3}
    with pytest.raises(DatasetError, match=r"holds out all images that train\.sample_weights keeps"):
        sample_by_weight(weights)(config, np.array([1, 2]))


@pytest.mark.slow
def test_a_run_mixes_its_data_with_another_store(tmp_path, tiny_pipeline):
    torch.set_num_threads(1)
    configs = [training_config(tiny_pipeline, tmp_path / name) for name in "ab"]
    for config in configs:
        fill_latents(config)
    mixed = training_config(tiny_pipeline, tmp_path / "a", f"train.mix=[{{store: {tmp_path / 'b'}, weight: 3}}]")
    task = load_task(dataclasses.replace(tiny.run_context(mixed, tmp_path), store=Store(mixed.store)))
    rows = np.concatenate([task.data.sample_rows(step, range(4))[0] for step in range(100)])
    assert (rows >= 8).mean() == pytest.approx(0.75, abs=0.03)
    assert task.manifest_facts["num_images"] == 16
