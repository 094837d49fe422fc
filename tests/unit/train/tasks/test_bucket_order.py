"""The order of samples in buckets: one bucket a batch, nothing left out, the same from any step and for any rank."""

from collections import Counter

import numpy as np
import pytest

from emoji_ldm.errors import DatasetError
from emoji_ldm.train.tasks.bucket_order import BucketOrder, sample_in_buckets
from tests.unit.train import tiny

BUCKET = np.array([0] * 90 + [2] * 37 + [3] * 3, np.int16)
BATCH = 8


def order(seed=0, weights=None):
    return BucketOrder(seed, BATCH, BUCKET, np.ones(len(BUCKET)) if weights is None else weights)


def test_every_batch_has_one_bucket_and_every_sample_is_drawn_as_often_as_the_others():
    found, drawn = order(), Counter()
    num_epochs, epoch = 40, len(BUCKET) / BATCH
    for step in range(round(num_epochs * epoch)):
        indices = found.indices(step, range(BATCH))
        assert len(set(BUCKET[indices])) == 1
        drawn.update(indices.tolist())
    counts = np.array([drawn[index] for index in range(len(BUCKET))])
    # A bucket's share is rounded to whole batches in each round, and evens out.
    assert counts.min() >= num_epochs - 8 and counts.max() <= num_epochs + 8
    for number in np.unique(BUCKET):
        own = counts[number == BUCKET]
        assert own.max() - own.min() <= 1, "within a bucket nobody is two epochs ahead"


def test_an_order_depends_on_seed_and_step_alone_and_ranks_share_it():
    whole = [order().indices(step, range(BATCH)) for step in range(60)]
    resumed, ahead = order(), order()
    for step in (59, 3, 40):
        assert (resumed.indices(step, range(BATCH)) == whole[step]).all()
    for step in range(60):
        ranks = [ahead.indices(step, range(first, first + 2)) for first in range(0, BATCH, 2)]
        assert (np.concatenate(ranks) == whole[step]).all()
    assert any((order(1).indices(step, range(BATCH)) != whole[step]).any() for step in range(5))


def test_weights_decide_buckets_and_samples():
    weights = np.ones(len(BUCKET))
    weights[:90] = 0.1
    weights[100] = 0
    drawn = Counter()
    found = order(weights=weights)
    for step in range(400):
        drawn.update(found.indices(step, range(BATCH)).tolist())
    share = sum(drawn[index] for index in range(90)) / (400 * BATCH)
    assert share == pytest.approx(9 / weights.sum(), abs=0.02) and not drawn[100]


def test_a_set_whose_weights_are_all_held_out_is_refused():
    with pytest.raises(DatasetError, match="holds out all images"):
        sample_in_buckets(BUCKET, np.zeros(len(BUCKET)))(tiny.config().train, np.arange(4))
