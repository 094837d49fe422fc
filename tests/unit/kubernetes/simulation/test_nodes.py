"""Nodes: as many as the waiting Pods fill, removed when they are idle."""

import pytest

from tests.unit.kubernetes.simulation.small_scenarios import simulate, small


def test_no_more_nodes_are_ordered_than_the_pods_fill():
    simulation = simulate(small(work={"copies": 4}))
    assert simulation.ledger.max_nodes == 4 + 1  # eight workers a GPU node; four heads share one other


def test_an_idle_node_is_removed_after_its_idle_time():
    values = small(work={"every_s": 4000, "copies": 2})
    simulation = simulate(values)
    first, second = simulation.every_run
    gaps = (
        simulation.ledger.node_s["gpu"]
        - (first.ended_at - first.submitted_at)
        - (second.ended_at - second.submitted_at)
    )
    assert gaps == pytest.approx(300, abs=60)  # idle_s, once: the second ends the simulation


def test_a_pod_that_is_larger_than_any_node_says_so():
    values = small(days=0.01)
    values["work"][0]["groups"][0]["gpus"] = 9
    values["queues"]["batch"]["nominal"]["gpu"]["nvidia.com/gpu"] = 99
    (run,) = simulate(values).every_run
    assert "larger than any node of pool gpu (g)" in run.workload.reason
