"""Kueue's quota arithmetic: what a queue reserves, lends and borrows."""

import pytest

from emoji_ldm.kubernetes.simulation.quota import ClusterQueue, Cohort, ResourceQuota, cohorts_of
from emoji_ldm.kubernetes.simulation.scenario import ClusterQueueSpec

KEY = ("gpu", "nvidia.com/gpu")


def cohort(**quotas):
    return Cohort(ClusterQueue(name, {KEY: quota}) for name, quota in quotas.items())


def test_quota_that_one_queue_draws_from_the_cohort_is_not_available_to_another():
    both = cohort(a=ResourceQuota(8), b=ResourceQuota(8))
    both.add(both.queues["a"], {KEY: 12})
    assert both.available(both.queues["b"], KEY) == 4
    both.add(both.queues["a"], {KEY: 12}, -1)
    assert both.available(both.queues["b"], KEY) == both.max_capacity(both.queues["b"], KEY) == 16


@pytest.mark.parametrize(
    ("quota", "maximum", "maximum_of_other"),
    [
        (ResourceQuota(8), 16, 16),
        (ResourceQuota(8, borrowing=2), 10, 16),
        (ResourceQuota(8, lending=2), 16, 10),
        (ResourceQuota(8, borrowing=0, lending=0), 8, 8),
    ],
)
def test_borrowing_and_lending_limits_bound_the_capacity(quota, maximum, maximum_of_other):
    both = cohort(a=quota, b=ResourceQuota(8))
    assert [both.max_capacity(queue, KEY) for queue in both.queues.values()] == [maximum, maximum_of_other]


def test_amounts_become_integers_and_a_queue_without_a_cohort_gets_its_own():
    spec = ClusterQueueSpec(nominal={"cpu": {"cpu": 0.5, "memory": 2}}, cohort="")
    cohorts = cohorts_of({"a": spec, "b": spec})
    assert [list(found.queues) for found in cohorts] == [["a"], ["b"]]
    assert cohorts[0].capacity == {("cpu", "cpu"): 500, ("cpu", "memory"): 2048}
