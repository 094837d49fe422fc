"""The rules about security: the "restricted" Pod Security Standard, also for containers that operators add."""

import pytest

from emoji_ldm.kubernetes.lint.context import LintContext
from emoji_ldm.kubernetes.lint.pods import pods
from emoji_ldm.kubernetes.lint.rules import RULES, security, violations
from tests.manifests.good import GONE, edited
from tests.manifests.render import K8S, OVERLAYS, rendered
from tests.unit.kubernetes.lint.rules.rule_cases import (
    assert_broken_rule_is_noticed,
    assert_obeyed_rule_has_no_findings,
    rules_in,
)

LEVEL = {name for name, rule in RULES.items() if rule.source.startswith("Pod Security Standards, restricted")}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_is_restricted_and_so_are_those_that_operators_add(overlay):
    things = tuple(rendered(overlay))
    around = LintContext(things, overlay, K8S)
    found = [text for obj in things for rule, _, text in violations(obj, around) if rule.name in LEVEL]
    boxes = [(pod, container) for pod in around.pods for container in pod.containers]
    added = [container["name"] for pod, container in boxes if container["name"] in pod.injected]
    print(f"\n{overlay}: {len(boxes)} containers, {len(added)} of them added by operators")
    assert found == []
    assert {"autoscaler", "wait-gcs-ready"} <= set(added)
    assert len(LEVEL) >= 10


@pytest.mark.parametrize("slip, name", [
    ({"spec.rayClusterConfig.autoscalerOptions.securityContext": GONE}, "autoscaler"),
    ({"spec.rayClusterConfig.workerGroupSpecs.0.template.spec.containers.0.securityContext": GONE}, "wait-gcs-ready"),
])  # fmt: skip
def test_a_container_that_an_operator_adds_is_noticed_when_it_is_not_hardened(slip, name):
    obj, around = edited("RayService/serve", slip)
    found = [text for rule, _, text in violations(obj, around) if rule.name in LEVEL]
    assert any(f"container {name}, which the operator adds, may gain privileges" in text for text in found)


def test_a_default_submitter_is_noticed():
    obj, around = edited("RayJob/train", {"spec.submitterPodTemplate": GONE})
    (submitter,) = [pod for pod in pods([obj]) if pod.role == "submitter"]
    found = [text for rule, _, text in violations(obj, around) if rule.name in LEVEL]
    assert submitter.injected == ("ray-job-submitter",)
    assert any("container ray-job-submitter, which the operator adds, may run as root" in text for text in found)


@pytest.mark.parametrize("rule", rules_in(security))
def test_a_broken_rule_about_security_is_noticed(rule):
    assert_broken_rule_is_noticed(rule)


@pytest.mark.parametrize("rule", rules_in(security))
def test_an_obeyed_rule_about_security_has_no_findings(rule):
    assert_obeyed_rule_has_no_findings(rule)
