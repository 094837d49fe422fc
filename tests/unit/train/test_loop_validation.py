"""The validation loss: exact for any batch size, and measured for the averaged weights too."""

from __future__ import annotations

import pytest
import torch

from emoji_ldm.model.ema import AVERAGE_NAMES, WeightAverages
from emoji_ldm.train.engines.distributed import DistributedContext
from emoji_ldm.train.engines.training_engine import build_engine
from emoji_ldm.train.loop import swapped_weights, validate
from emoji_ldm.train.tasks import latent_batches, sampler
from emoji_ldm.train.training_args import build_training_args
from tests.unit.train import tiny

ALONE = DistributedContext(0, 1, torch.device("cpu"))


def prepared(*overrides):
    """A task that holds out 5 of 12 images, its engine, and averages that differ from the weights."""
    config = tiny.config("train.validation_fraction=0.5", "train.seed=3", *overrides)
    task, training_args = tiny.task(config, tiny.latent_set(12)), build_training_args(config, "train")
    engine = build_engine(task.module, training_args, ALONE)
    averages = WeightAverages(engine.master_shards(), training_args.ema_decay)
    for tensor in averages.tensors.get(AVERAGE_NAMES[0], ()):
        tensor.mul_(0.9)
    return task, training_args, engine, averages


@pytest.mark.slow
def test_every_validation_image_counts_once_for_any_micro_batch_size():
    found = []
    for size in ("null", 1, 2):
        task, training_args, engine, averages = prepared(f"train.micro_batch_size={size}")
        parts = sampler.split_micro_batches(range(4), training_args.micro_batch_size)
        found.append(validate(task, engine, averages, ALONE, parts))
    assert found[0] == pytest.approx(found[1], rel=1e-6) and found[0] == pytest.approx(found[2], rel=1e-6)
    count = len(task.data.validation_rows)
    assert count % 4  # so that a batch is filled up
    with torch.no_grad():
        one_by_one = [float(task.loss(engine.forward, batch)) for slot in range(4)
                      for batch in task.validation_batches(range(slot, slot + 1))]  # fmt: skip
    assert sum(loss > 0 for loss in one_by_one) == count
    weight = -(-count // 4) * 4 / count  # of an image in the mean over all places
    assert found[0]["validation_loss"] == pytest.approx(sum(one_by_one) / weight / count, rel=1e-6)


def test_the_averaged_weights_are_validated_and_then_swapped_back():
    task, _, engine, averages = prepared()
    before = [tensor.clone() for tensor in engine.master_shards()]
    found = validate(task, engine, averages, ALONE, [range(4)])
    assert found["validation_loss_ema"] != found["validation_loss"]
    assert all(torch.equal(a, b) for a, b in zip(before, engine.master_shards(), strict=True))
    with swapped_weights(engine, averages.tensors[AVERAGE_NAMES[0]]):
        again = validate(task, engine, averages, ALONE, [range(4)])
    assert again["validation_loss"] == found["validation_loss_ema"]


def test_without_validation_images_nothing_is_measured():
    config = tiny.config("train.validation_fraction=0")
    task, training_args = tiny.task(config), build_training_args(config, "train")
    engine = build_engine(task.module, training_args, ALONE)
    assert validate(task, engine, WeightAverages(engine.master_shards(), 0.9), ALONE, [range(4)]) == {}


def test_validation_is_limited_to_a_number_of_images_and_reads_one_batch_at_a_time(monkeypatch):
    monkeypatch.setattr(latent_batches, "NUM_VALIDATION_IMAGES", 2)
    task, _, engine, averages = prepared()
    found = task.validation_batches(range(4))
    assert next(found).weights.count_nonzero() == 2 and next(found, None) is None
    few = validate(task, engine, averages, ALONE, [range(4)])
    own = task.data.validation_rows
    task.data.validation_rows = latent_batches._validation_rows(own, task.data.latents.image_ids)
    assert len(own) > len(task.data.validation_rows) == 2
    assert validate(task, engine, averages, ALONE, [range(4)]) == few


def test_without_an_average_the_weights_are_measured_once():
    task, training_args, engine, _ = prepared("train.ema_decay=0")
    none = WeightAverages(engine.master_shards(), training_args.ema_decay)
    assert none.tensors == {}
    assert validate(task, engine, none, ALONE, [range(4)]).keys() == {"validation_loss"}
