"""Nodes: as many are provisioned as the waiting Pods fill, and idle ones are removed."""

import pytest

from tests.unit.kubernetes.simulation.small_scenarios import simulate, small


def test_no_more_nodes_are_ordered_than_the_pods_fill():
    simulation = simulate(small(work={"copies": 4}))
    assert simulation.ledger.max_nodes == 4 + 1  # eight workers per GPU node; the four heads share another node


def test_an_idle_node_is_removed_after_its_idle_time():
    values = small()
    on_cpu = {"name": "w", "flavors": ["cpu"], "image": "cpu", "cpu": 8, "memory_gib": 32, "min_replicas": 1}
    values["work"].append({**values["work"][0], "name": "longer", "groups": [on_cpu]})
    simulation = simulate(values)
    run, longer = simulation.every_run
    assert longer.ended_at > run.ended_at + 2 * 300
    # The GPU node lives from shortly after the submission until idle_s after the end of the only job that uses it.
    assert simulation.ledger.node_s["gpu"] - (run.ended_at - run.submitted_at) == pytest.approx(300, abs=60)


def test_the_reason_of_a_pod_that_is_larger_than_any_node_says_so():
    values = small(days=0.01)
    values["work"][0]["groups"][0]["gpus"] = 9
    values["queues"]["batch"]["nominal"]["gpu"]["nvidia.com/gpu"] = 99
    (run,) = simulate(values).every_run
    assert "larger than any node of pool gpu (g)" in run.workload.reason
