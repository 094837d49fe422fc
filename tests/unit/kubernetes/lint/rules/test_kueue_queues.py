"""The rules about Kueue's queues: each notices what breaks it, and nothing else."""

import pytest

from emoji_ldm.kubernetes.lint.rules import kueue_queues
from tests.manifests.operators import JOB
from tests.unit.kubernetes.lint.rules.rule_cases import (
    assert_broken_rule_is_noticed,
    assert_obeyed_rule_has_no_findings,
    found_by,
    rules_in,
)

WORKERS = "spec.rayClusterSpec.workerGroupSpecs.0"


@pytest.mark.parametrize("rule", rules_in(kueue_queues))
def test_a_broken_rule_about_queues_is_noticed(rule):
    assert_broken_rule_is_noticed(rule)


@pytest.mark.parametrize("rule", rules_in(kueue_queues))
def test_an_obeyed_rule_about_queues_has_no_findings(rule):
    assert_obeyed_rule_has_no_findings(rule)


def test_a_gang_needs_one_flavor_that_has_room_for_all_of_a_group():
    """Together the queue has enough GPUs; in no flavor are there so many."""
    flavor = {"name": "gpu-more", "resources": [
        {"name": "cpu", "nominalQuota": 64}, {"name": "memory", "nominalQuota": "999Gi"},
        {"name": "nvidia.com/gpu", "nominalQuota": 1}]}  # fmt: skip
    for replicas, wrong in ((4, False), (5, True)):
        edits = {f"{WORKERS}.replicas": replicas, f"{WORKERS}.maxReplicas": replicas,
                 "ClusterQueue/train:spec.resourceGroups.0.flavors.2": flavor}  # fmt: skip
        assert bool(found_by("a gang fits its queue", JOB, edits)) is wrong


def test_workers_of_several_hosts_count_as_often():
    edits = {f"{WORKERS}.replicas": 3, f"{WORKERS}.numOfHosts": 2}
    assert found_by("a gang fits its queue", JOB, edits)
