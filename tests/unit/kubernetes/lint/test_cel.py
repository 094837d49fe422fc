"""The CEL rules of custom kinds are evaluated as the API server evaluates them."""

import json
import re

import pytest

from emoji_ldm.kubernetes.lint.cel import KUBERNETES_FUNCTIONS, holds, is_update_rule, rules_of
from emoji_ldm.kubernetes.lint.schema import custom_kind
from tests.manifests.good import GONE, edited, problems
from tests.manifests.render import K8S

SCHEMAS = K8S / "schemas"
KINDS = sorted(SCHEMAS.glob("*.json"))
POOL, MACHINES, QUEUE = "NodePool/gpu-spot", "EC2NodeClass/gpu", "ClusterQueue/train"


def cel_rules(path, *, of_updates=False):
    """The CEL rules in the schema of a file, either those that are evaluated or those that only an update can break."""
    return sorted({rule["rule"] for rule in rules_of(of_file(path).schema) if is_update_rule(rule) == of_updates})


def of_file(path):
    read = json.loads(path.read_text())
    return custom_kind(f"{read['group']}/{read['version']}", read["kind"], SCHEMAS)


CEL = {
    "a schedule without its duration": (
        POOL,
        {"spec.disruption.budgets": [{"nodes": "1", "schedule": "@daily"}]}),
    "an operator In without values": (POOL, {"spec.template.spec.requirements.0.values": []}),
    "Gt of what is no number": (POOL, {"spec.template.spec.requirements.0": {
        "key": "karpenter.k8s.aws/instance-cpu", "operator": "Gt", "values": ["-4"]}}),
    "a restricted domain of labels": (POOL, {"spec.template.spec.requirements.0.key": "karpenter.sh/else"}),
    "neither role nor profile": (MACHINES, {"spec.role": GONE}),
    "an image family that does not exist": (MACHINES, {"spec.amiSelectorTerms.0.alias": "al2024@latest"}),
    "an alias beside an id": (MACHINES, {"spec.amiSelectorTerms.0.id": "ami-0123456789abcdef0"}),
    "no subnets": (MACHINES, {"spec.subnetSelectorTerms": []}),
    "an empty tag": (MACHINES, {"spec.subnetSelectorTerms.0.tags": {"team": ""}}),
    "a limit without a cohort": (QUEUE, {"spec.cohortName": GONE}),
    "borrowing that nobody may reclaim": (QUEUE, {"spec.preemption": {
        "reclaimWithinCohort": "Never", "borrowWithinCohort": {"policy": "LowerPriority"}}}),
    "a preference that two other fields contradict": (QUEUE, {"spec.flavorFungibility": {
        "preference": "BorrowingOverPreemption", "whenCanBorrow": "MayStopSearch"}}),
    "a topology without labels": ("ResourceFlavor/gpu-spot", {"spec.nodeLabels": GONE}),
    "a taint of unknown effect": ("ResourceFlavor/gpu-spot", {"spec.nodeTaints.0.effect": "Never"}),
    "levels that are not unique": ("Topology/zones", {"spec.levels": [{"nodeLabel": "a"}, {"nodeLabel": "a"}]}),
    "a host above a zone": ("Topology/zones", {"spec.levels": [
        {"nodeLabel": "kubernetes.io/hostname"}, {"nodeLabel": "topology.kubernetes.io/zone"}]}),
    "a manager that does not exist": ("RayJob/train", {"spec.managedBy": "else"}),
    "a deletion for no end": ("RayJob/train", {
        "spec.deletionStrategy": {"deletionRules": [{"policy": "DeleteSelf", "condition": {"ttlSeconds": 1}}]}}),
}  # fmt: skip


@pytest.mark.parametrize("case", CEL)
def test_a_broken_cel_rule_is_noticed(case):
    name, slip = CEL[case]
    obj, around = edited(name, slip)
    assert list(problems(obj, around))


def test_the_cel_rules_are_evaluated_and_those_of_updates_are_named():
    """Rules with oldSelf compare with the object before an update; at creation the API server skips them as well."""
    done = {path.stem: cel_rules(path) for path in KINDS}
    left = {path.stem: cel_rules(path, of_updates=True) for path in KINDS}
    print(f"\n{sum(map(len, done.values()))} CEL rules evaluated; only for updates:")
    for kind, rules in left.items():
        for rule in rules:
            print(f"  {kind}: {rule}")
    assert sum(map(len, done.values())) >= 80
    assert all("oldSelf" in rule for rules in left.values() for rule in rules)


def test_every_function_that_a_cel_rule_calls_is_there():
    """A rule that calls what we lack would fail on every value, as `holds` is strict."""
    known = {
        "all",
        "exists",
        "filter",
        "has",
        "size",
        "int",
        "matches",
        "startsWith",
        "endsWith",
        *KUBERNETES_FUNCTIONS,
    }
    for path in KINDS:
        for rule in cel_rules(path):
            called = set(re.findall(r"\b([A-Za-z]\w*)\(", rule))
            assert called <= known or path.stem == "kueue.x-k8s.io_Workload", rule  # Kueue makes Workloads, we do not


def test_a_rule_that_cannot_be_evaluated_does_not_hold():
    assert holds("self.a == 1", {"a": 1})
    assert not holds("self.b == 1", {"a": 1})
