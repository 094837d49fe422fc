"""Kueue's quota arithmetic: what a queue keeps, lends and borrows."""

import pytest

from emoji_ldm.kubernetes.simulation.quota import ClusterQueue, Cohort, ResourceQuota, cohorts_of
from emoji_ldm.kubernetes.simulation.scenario import ClusterQueueSpec

KEY = ("gpu", "nvidia.com/gpu")


def cohort(**quotas):
    return Cohort(ClusterQueue(name, {KEY: quota}) for name, quota in quotas.items())


def test_what_one_queue_uses_of_the_cohort_another_cannot():
    both = cohort(a=ResourceQuota(8), b=ResourceQuota(8))
    both.add(both.queues["a"], {KEY: 12})
    assert both.available(both.queues["b"], KEY) == 4
    both.add(both.queues["a"], {KEY: 12}, -1)
    assert both.available(both.queues["b"], KEY) == both.ceiling(both.queues["b"], KEY) == 16


@pytest.mark.parametrize(
    ("quota", "ceiling", "of_the_other"),
    [
        (ResourceQuota(8), 16, 16),
        (ResourceQuota(8, borrowing=2), 10, 16),
        (ResourceQuota(8, lending=2), 16, 10),
        (ResourceQuota(8, borrowing=0, lending=0), 8, 8),
    ],
)
def test_limits_bound_what_is_borrowed_and_what_is_lent(quota, ceiling, of_the_other):
    both = cohort(a=quota, b=ResourceQuota(8))
    assert [both.ceiling(queue, KEY) for queue in both.queues.values()] == [ceiling, of_the_other]


def test_amounts_become_whole_numbers_and_queues_without_a_cohort_stand_alone():
    spec = ClusterQueueSpec(nominal={"cpu": {"cpu": 0.5, "memory": 2}}, cohort="")
    cohorts = cohorts_of({"a": spec, "b": spec})
    assert [list(found.queues) for found in cohorts] == [["a"], ["b"]]
    assert cohorts[0].capacity == {("cpu", "cpu"): 500, ("cpu", "memory"): 2048}
