"""Warm-up: what is measured, what is chosen by it, and what is reused."""

import copy
from dataclasses import replace

import pytest

from emoji_ldm.generate import warmup
from emoji_ldm.generate.warmup import prepare_engine, warm_up, warm_up_with_adapters


@pytest.fixture
def timed(monkeypatch):
    """Ticks whose times are given by a function of (images, min_rows_to_split); returns the calls."""
    calls = []

    def fake_times(tick_s):
        def timed_tick(engine, encoder_decoder, size, min_rows_to_split):
            calls.append((size, min_rows_to_split))
            return tick_s(size, min_rows_to_split)

        monkeypatch.setattr(warmup, "_tick_s", timed_tick)
        return calls

    return fake_times


def test_the_deterministic_mode_times_each_shape_and_chooses_nothing(small_model, timed):
    calls = timed(lambda size, _: 0.1 * size)
    loaded = warm_up(small_model, 4, deterministic=True)
    # Passes have two sizes: 4 rows, and twice 4 rows. Each is timed once to warm up and in two rounds.
    assert sorted(size for size, _ in calls) == [2] * 3 + [4] * 3
    assert loaded.max_batch == 4


def test_the_fast_mode_limits_its_batch_where_larger_ones_gain_nothing(small_model, timed):
    timed(lambda size, _: 0.1 * max(size, 2))
    assert warm_up(small_model, 8, deterministic=False).max_batch == 2


def test_the_fast_mode_splits_passes_only_where_that_was_faster(small_model, timed):
    engine, encoder_decoder = prepare_engine(small_model, 4, deterministic=False)
    unet = engine.unet
    unet.min_rows_to_split = 2  # as with two cores
    timed(lambda size, min_rows: 1.0 if size >= 4 and min_rows == 2 else 2.0)
    loaded = warmup._measure(engine, encoder_decoder)
    assert unet.min_rows_to_split == 2 * 2 + 2  # splitting gains nothing up to 2 guided images
    assert loaded.profile.predict_s(8) == 1.0 and loaded.profile.predict_s(4) == 2.0


def test_weights_of_the_same_architecture_are_not_measured_again(small_model, timed):
    calls = timed(lambda size, _: 0.1 * size)
    first = warm_up(small_model, 4, deterministic=True)
    num_calls = len(calls)
    other = replace(small_model, unet=copy.deepcopy(small_model.unet), key="other")
    second = warm_up(other, 4, deterministic=True, like=first)
    assert len(calls) == num_calls and second.engine.model is other
    assert second.profile.predict_s(8) == first.profile.predict_s(8) and second.profile is not first.profile


def test_without_adapters_there_is_the_base_model_alone(small_model, timed):
    timed(lambda size, _: 0.1)
    assert list(warm_up_with_adapters(small_model, {}, 2, deterministic=True)) == [""]


def test_the_profile_of_another_shape_is_estimated_by_its_size(small_model, timed):
    timed(lambda size, _: 0.1 * size)
    loaded = warm_up(small_model, 4, deterministic=True)
    wide = loaded.shape_profile((4, 8, 16))
    assert wide.max_batch == 2 and wide.profile.predict_s(8) == pytest.approx(2 * loaded.profile.predict_s(8))
    assert loaded.shape_profile((4, 8, 16)) is wide
    assert loaded.shape_profile((4, 8, 8)).profile is loaded.profile


def test_a_tick_is_timed_with_the_real_engine(small_model):
    engine, encoder_decoder = prepare_engine(small_model, 2, deterministic=True)
    assert 0 < warmup._tick_s(engine, encoder_decoder, 2, 5) < 60
    assert engine.unet.min_rows_to_split == 5
