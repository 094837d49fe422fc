"""How many replicas a model gets, by the work that waits and by how busy its replicas are."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from emoji_ldm.config import ServeConfig
from ray_jobs.serving.autoscaling import (
    DRAIN_S,
    UTILIZATION,
    DrainTimePolicy,
    least_replicas,
    wanted_replicas,
    with_default_replicas,
)


def replicas(drain_s=(0,), utilization=(0,), ongoing=1, target_wait_s=5):
    return wanted_replicas(drain_s, utilization, ongoing=ongoing, target_wait_s=target_wait_s)


def test_work_that_one_replica_finishes_in_time_needs_one():
    assert replicas([5]) == 1


def test_twice_the_work_needs_two_wherever_it_waits():
    assert replicas([10]) == replicas([7, 3], [0, 0]) == 2


def test_busy_replicas_get_help_although_nothing_waits():
    assert replicas([0.1, 0.1], [0.9, 0.9], ongoing=2) == pytest.approx(2.25)


def test_replicas_that_carry_their_load_stay():
    assert 1 < replicas([0.1, 0.1], [0.6, 0.6], ongoing=2) <= 2


def test_a_model_scales_to_zero_only_without_requests():
    assert replicas(ongoing=0) == 0
    assert replicas([], [], ongoing=1) == 1
    assert replicas([0.1], ongoing=0) == 1


def test_serve_calls_the_policy_with_what_replicas_report():
    reported = {DRAIN_S: {"a": 8.0, "b": 2.0}, UTILIZATION: {"a": 1.0, "b": 1.0}}
    context = SimpleNamespace(aggregated_metrics=reported, total_num_requests=3)
    assert DrainTimePolicy(2)(context) == (5, {})
    assert DrainTimePolicy(2)(SimpleNamespace(aggregated_metrics={}, total_num_requests=0)) == (0, {})


@pytest.mark.parametrize(
    ("settings", "num_cores", "num_gpus", "expected"),
    [
        ({}, 1, 0, 1),
        ({}, 2, 0, 2),
        ({"models": {"other": "o"}}, 2, 0, 1),
        ({"models": {"other": "o"}}, 4, 0, 2),
        ({"max_replicas": 1}, 64, 0, 1),
        ({"gpus_per_worker": 1}, 64, 1, 1),
        ({"gpus_per_worker": 1}, 2, 2, 2),
        ({"min_replicas": 0}, 64, 8, 0),
        ({"min_replicas": 3, "max_replicas": 3}, 2, 0, 3),
    ],
)
def test_two_replicas_run_by_default_where_the_resources_suffice(settings, num_cores, num_gpus, expected):
    decided = with_default_replicas(ServeConfig(**settings), num_cores=num_cores, num_gpus=num_gpus)
    assert decided.min_replicas == least_replicas(decided) == expected


def test_one_replica_runs_where_nobody_has_decided():
    assert least_replicas(ServeConfig()) == 1
