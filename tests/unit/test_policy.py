"""How many replicas a model gets."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ray_jobs.policy import BUSY, RATE, ROW_STEPS, DrainTime, wanted_replicas


def wanted(row_steps=(0,), rates=(100,), busy=(0,), ongoing=1, target_wait_s=5):
    return wanted_replicas(row_steps, rates, busy, ongoing=ongoing, target_wait_s=target_wait_s)


def test_work_that_one_replica_would_end_in_time_needs_one():
    assert wanted([500]) == 1


def test_twice_the_work_needs_two_wherever_it_waits():
    assert wanted([1000]) == wanted([700, 300], [100, 100], [0, 0]) == 2


def test_a_slower_device_needs_more():
    assert wanted([1000], [50]) == 4


def test_a_replica_that_has_measured_nothing_yet_counts_as_one_like_the_others():
    assert wanted([1000, 0], [100, 0], [0, 0]) == 2
    assert wanted([1000], [0]) == 1


def test_busy_replicas_get_help_although_nothing_waits():
    assert wanted([10, 10], [100, 100], [0.9, 0.9], ongoing=2) == pytest.approx(2.25)


def test_replicas_that_carry_their_load_stay():
    assert 1 < wanted([10, 10], [100, 100], [0.6, 0.6], ongoing=2) <= 2


def test_a_model_sleeps_only_if_nobody_asks():
    assert wanted(ongoing=0) == 0
    assert wanted([], [], [], ongoing=1) == 1
    assert wanted([1], ongoing=0) == 1


def test_serve_calls_the_policy_with_what_replicas_export():
    told = {ROW_STEPS: {"a": 800.0, "b": 200.0}, RATE: {"a": 100.0, "b": 100.0}, BUSY: {"a": 1.0, "b": 1.0}}
    context = SimpleNamespace(aggregated_metrics=told, total_num_requests=3)
    assert DrainTime(2)(context) == (5, {})
    assert DrainTime(2)(SimpleNamespace(aggregated_metrics={}, total_num_requests=0)) == (0, {})
