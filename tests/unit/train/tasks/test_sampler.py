"""Data order and random numbers do not depend on the number of workers."""

from __future__ import annotations

import numpy as np
import pytest

from emoji_ldm.errors import ConfigError
from emoji_ldm.train.tasks import sampler


def test_random_numbers_are_keyed_by_position_in_the_batch_and_not_by_rank():
    whole = sampler.draw_noise(7, 3, range(8), shape=(2, 4, 4))
    for size in (2, 4, 8):
        parts = [sampler.draw_noise(7, 3, sampler.rank_slots(rank, size, 8), shape=(2, 4, 4)) for rank in range(size)]
        for name in ("noise", "posterior", "timesteps", "uniforms", "offsets", "normals"):
            assert np.array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name))


def test_positions_steps_seeds_and_streams_share_no_noise():
    seen = [
        sampler.draw_noise(seed, step, range(4), shape=(2, 8, 8), kind=kind)
        for seed in (0, 1, -1) for step in (0, 1) for kind in ("unet", "autoencoder")
    ]  # fmt: skip
    flat = np.concatenate([part.reshape(4, -1) for draws in seen for part in (draws.noise, draws.posterior)])
    likeness = np.corrcoef(flat) - np.eye(len(flat))
    assert np.abs(likeness).max() < 0.5


def test_draws_have_the_distributions_they_should():
    draws = sampler.draw_noise(0, 0, range(2000), shape=(1, 4, 4))
    assert draws.noise.mean() == pytest.approx(0, abs=0.02)
    assert draws.noise.std() == pytest.approx(1, abs=0.02)
    assert draws.timesteps.min() >= 0
    assert draws.timesteps.max() < 1000
    assert draws.timesteps.mean() == pytest.approx(499.5, abs=25)
    assert (draws.uniforms[:, 0] < 0.1).mean() == pytest.approx(0.1, abs=0.03)
    for column in (draws.offsets, draws.normals):
        assert column.mean() == pytest.approx(0, abs=0.1)
        assert column.std() == pytest.approx(1, abs=0.05)


def test_an_epoch_is_a_permutation_and_epochs_differ():
    size, batch_size = 10, 4
    places = np.concatenate(
        [sampler.sample_indices(0, step, range(4), batch_size=batch_size, size=size) for step in range(5)]
    )
    first, second = places[:size], places[size:]
    assert sorted(first) == sorted(second) == list(range(size))
    assert not np.array_equal(first, second)


def test_a_batch_may_be_larger_than_the_set():
    counts = np.bincount(sampler.sample_indices(0, 0, range(12), batch_size=12, size=4))
    assert counts.tolist() == [3, 3, 3, 3]


def test_the_order_is_the_same_for_any_number_of_workers_and_from_any_step():
    whole = sampler.sample_indices(5, 17, range(12), batch_size=12, size=30)
    parts = [
        sampler.sample_indices(5, 17, sampler.rank_slots(rank, 3, 12), batch_size=12, size=30) for rank in range(3)
    ]
    assert np.array_equal(np.concatenate(parts), whole)


def test_a_batch_that_cannot_be_shared_is_refused_with_remedy():
    with pytest.raises(ConfigError, match=r"train\.batch_size=10 cannot be shared by 4 workers; give 8 or 12"):
        sampler.rank_slots(0, 4, 10)
    with pytest.raises(ConfigError, match="give 4, or"):
        sampler.rank_slots(0, 4, 2)


def test_every_number_of_workers_in_the_range_must_share_the_batch():
    sampler.check_worker_range(1, 4, 12)
    with pytest.raises(ConfigError, match=r"batch_size=10 cannot be shared by 3 or 4 workers.*give 12"):
        sampler.check_worker_range(2, 4, 10)
    with pytest.raises(ConfigError, match=r"min_workers=5 is above train\.num_workers=4"):
        sampler.check_worker_range(5, 4, 60)


def drawn(weights, steps, batch_size=5, seed=0):
    cumulative = np.cumsum(np.array(weights, float))
    return np.concatenate(
        [sampler.weighted_indices(seed, step, range(batch_size), batch_size, cumulative) for step in range(steps)]
    )


def test_weights_decide_how_often_a_sample_comes_in_each_epoch():
    weights = [2, 0, 1, 1, 0.5, 0.5, 1, 1, 1, 2]
    for epoch in range(4):
        counts = np.bincount(drawn(weights, 8)[10 * epoch : 10 * epoch + 10], minlength=10)
        assert (abs(counts - np.array(weights)) < 1).all(), "rounded down or up"
    total = np.bincount(drawn(weights, 400), minlength=10) / 200
    assert total == pytest.approx(np.array(weights), abs=0.05)


def test_equal_weights_give_the_order_of_an_unweighted_training():
    plain = np.concatenate([sampler.sample_indices(3, step, range(5), batch_size=5, size=12) for step in range(9)])
    assert drawn([0.25] * 12, 9, seed=3).tolist() == plain.tolist()


def test_a_weighted_order_is_the_same_for_any_number_of_workers_and_from_any_step():
    cumulative = np.cumsum(np.linspace(0.1, 3, 30))
    whole = sampler.weighted_indices(5, 17, range(12), 12, cumulative)
    parts = [sampler.weighted_indices(5, 17, sampler.rank_slots(rank, 3, 12), 12, cumulative) for rank in range(3)]
    assert np.concatenate(parts).tolist() == whole.tolist()
