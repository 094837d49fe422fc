"""What a scenario takes from manifests: queues, node pools and worker groups."""

import pytest

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.simulation.worker_groups import amount, cluster_queue, node_pool, worker_group

QUEUE = {
    "kind": "ClusterQueue",
    "metadata": {"name": "train"},
    "spec": {
        "cohortName": "emoji-ldm",
        "queueingStrategy": "StrictFIFO",
        "preemption": {
            "reclaimWithinCohort": "Any",
            "borrowWithinCohort": {"policy": "LowerPriority", "maxPriorityThreshold": 10000},
        },
        "resourceGroups": [
            {
                "coveredResources": ["cpu", "memory"],
                "flavors": [
                    {
                        "name": "cpu",
                        "resources": [
                            {"name": "cpu", "nominalQuota": "500m", "borrowingLimit": 2},
                            {"name": "memory", "nominalQuota": "512Mi", "lendingLimit": "256Mi"},
                        ],
                    }
                ],
            }
        ],
    },
}


def test_a_cluster_queue_is_read_with_its_units_and_policies():
    assert cluster_queue(QUEUE) == {
        "cohort": "emoji-ldm", "strict": True, "nominal": {"cpu": {"cpu": 0.5, "memory": 0.5}},
        "borrowing": {"cpu": {"cpu": 2.0}}, "lending": {"cpu": {"memory": 0.25}},
    }  # fmt: skip


@pytest.mark.parametrize(("text", "number"), [("500m", 0.5), ("1e3", 1000), ("2P", 2e15), (4, 4), ("1.5Ki", 1536)])
def test_quantities_are_those_of_kubernetes(text, number):
    assert amount("cpu", text) == number


def test_memory_is_counted_in_gib():
    assert amount("memory", "512Mi") == 0.5
    with pytest.raises(ConfigError, match="not a Kubernetes quantity"):
        amount("memory", "much")


def test_a_node_pool_that_never_consolidates_keeps_its_nodes():
    assert node_pool({"spec": {"disruption": {"consolidateAfter": "Never"}}}, {})["idle_s"] > 1e9


def test_a_node_pools_limit_becomes_nodes_of_the_scenarios_machine():
    spec = {"limits": {"nvidia.com/gpu": "20", "cpu": "1k"}, "disruption": {"consolidateAfter": "1h30m"}}
    assert node_pool({"spec": spec}, {"cpu": 96, "gpus": 8}) == {"limit": 2, "idle_s": 5400.0}


def test_limits_count_as_requests_and_the_pool_of_a_group_is_the_one_it_selects_or_its_name():
    limits = {"cpu": "7", "memory": "26Gi", "nvidia.com/gpu": "1"}
    pod = {"containers": [{"resources": {"limits": limits, "requests": {"cpu": "2"}}}]}
    spec = {"groupName": "w", "minReplicas": 1, "maxReplicas": 3, "template": {"spec": pod}}
    assert worker_group(spec) == {
        "pool": "w", "cpu": 2, "memory_gib": 26, "gpus": 1, "min_replicas": 1, "max_replicas": 3
    }  # fmt: skip
    pod["nodeSelector"] = {"emoji-ldm/pool": "gpu-spot"}
    assert worker_group(spec)["pool"] == "gpu-spot"
