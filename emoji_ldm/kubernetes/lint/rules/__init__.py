"""The rules that no schema states, by topic: of KubeRay, Kueue, Kubernetes and this project."""

from __future__ import annotations

from collections.abc import Iterator

from emoji_ldm.kubernetes.lint.context import LintContext
from emoji_ldm.kubernetes.lint.pods import FieldPath, pods
from emoji_ldm.kubernetes.lint.rendering import KubeObject
from emoji_ldm.kubernetes.lint.rules import (  # noqa: F401  # importing a module registers its rules
    availability,
    gcs_fault_tolerance,
    images,
    kueue_queues,
    kueue_quotas,
    labels,
    object_references,
    pod_references,
    project_config,
    ray_autoscaler,
    ray_cluster,
    ray_job,
    ray_service,
    scheduling,
    security,
    values,
)
from emoji_ldm.kubernetes.lint.rules.rule import RULES, Rule, rule_targets

__all__ = ["RULES", "Rule", "violations"]


def violations(obj: KubeObject, context: LintContext) -> Iterator[tuple[Rule, FieldPath, str]]:
    """The rules that one object breaks, each with the path in the object; the object must have passed its schema."""
    # Rules are selected once per object and not once per target: an object has many containers, and most rules are for
    # other kinds or scopes.
    by_scope: dict[str, list[Rule]] = {}
    for candidate in RULES.values():
        if not candidate.kinds or obj["kind"] in candidate.kinds:
            by_scope.setdefault(candidate.scope, []).append(candidate)
    for scope, target in rule_targets(obj, context, list(pods([obj]))):
        for rule in by_scope.get(scope, []):
            for path, text in rule.find(target):
                yield rule, (*target.path, *path), text
