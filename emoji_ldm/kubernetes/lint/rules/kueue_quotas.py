"""Rules of Kueue for its own kinds, as its webhooks check them; `lint.cel` evaluates the CEL rules of its schemas."""

from __future__ import annotations

from collections.abc import Iterator

from emoji_ldm.kubernetes.lint.k8s_enums import LABEL_VALUE, qualified_name
from emoji_ldm.kubernetes.lint.pods import FieldPath
from emoji_ldm.kubernetes.lint.quantities import quantity
from emoji_ldm.kubernetes.lint.rendering import KubeObject
from emoji_ldm.kubernetes.lint.rules.rule import OBJECT, RuleTarget, Violations, rule
from emoji_ldm.kubernetes.lint.selectors import selects

# Kueue has a validating webhook for these kinds, so `kubectl apply` reports the mistakes that are found here. The check
# repeats them because one overlay is applied as a whole: a refusal halfway would leave it half installed.
KINDS = ("ClusterQueue", "Cohort")
LIMITS = ("borrowingLimit", "lendingLimit")


@rule(OBJECT, *KINDS)
def covered_resources_have_names(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/webhooks/clusterqueue_webhook.go validateResourceName."""
    for path, group in _groups(target):
        for index, name in enumerate(group["coveredResources"]):
            if not qualified_name(name):
                yield (*path, "coveredResources", index), f"{name!r} is not a valid resource name"


@rule(OBJECT, *KINDS)
def a_resource_is_covered_once(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/webhooks/clusterqueue_webhook.go validateResourceGroups."""
    # Kueue assigns flavors one resource group at a time; a resource in two groups would get two flavors.
    seen: set[str] = set()
    for path, group in _groups(target):
        for index, name in enumerate(group["coveredResources"]):
            if name in seen:
                yield (*path, "coveredResources", index), f"{name} is covered twice"
            seen.add(name)


@rule(OBJECT, *KINDS)
def a_flavor_stands_once(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/webhooks/clusterqueue_webhook.go validateResourceGroups."""
    seen: set[str] = set()
    for path, group in _groups(target):
        for index, flavor in enumerate(group["flavors"]):
            if flavor["name"] in seen:
                yield (*path, "flavors", index, "name"), f"the flavor {flavor['name']} is listed twice"
            seen.add(flavor["name"])


@rule(OBJECT, *KINDS)
def quotas_follow_the_covered_resources(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/webhooks/clusterqueue_webhook.go validateFlavorQuotas."""
    # Kueue compares the two lists by position, so the same names in another order are refused as well.
    for path, group in _groups(target):
        for index, flavor in enumerate(group["flavors"]):
            names = [item["name"] for item in flavor["resources"]]
            if names != group["coveredResources"]:
                where = (*path, "flavors", index, "resources")
                yield where, f"must list the covered resources in their order: {', '.join(group['coveredResources'])}"


@rule(OBJECT, *KINDS)
def quotas_are_not_negative(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/webhooks/clusterqueue_webhook.go validateResourceQuantity."""
    for path, item in _quotas(target):
        for key in ("nominalQuota", *LIMITS):
            number = quantity(item.get(key))
            if number is not None and number < 0:
                yield (*path, key), f"{key} is negative"


@rule(OBJECT, *KINDS)
def limits_need_a_cohort(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/webhooks/clusterqueue_webhook.go validateLimit."""
    # Without a cohort there is nobody to borrow from or to lend to. A ClusterQueue names its cohort, a Cohort its
    # parent.
    parent = "cohortName" if target.kind == "ClusterQueue" else "parentName"
    for path, item in _quotas(target):
        for key in LIMITS:
            if key in item and not target.spec.get(parent):
                yield (*path, key), f"{key} needs {parent}"


@rule(OBJECT, "ClusterQueue")
def nobody_lends_more_than_he_has(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/webhooks/clusterqueue_webhook.go validateLendingLimit."""
    for path, item in _quotas(target):
        lent, own = quantity(item.get("lendingLimit")), quantity(item["nominalQuota"])
        if lent is not None and own is not None and lent > own:
            yield (*path, "lendingLimit"), f"lendingLimit {item['lendingLimit']} is more than {item['nominalQuota']}"


@rule(OBJECT, *KINDS)
def the_fair_share_is_not_negative(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/webhooks/common.go validateFairSharing."""
    weight = quantity((target.spec.get("fairSharing") or {}).get("weight"))
    if weight is not None and weight < 0:
        yield ("spec", "fairSharing", "weight"), "the weight is negative"


@rule(OBJECT, "ClusterQueue")
def admission_checks_are_on_flavors_of_the_queue(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/webhooks/clusterqueue_webhook.go validateAdmissionCheckOnFlavors."""
    flavors = {flavor["name"] for _, group in _groups(target) for flavor in group["flavors"]}
    checks = (target.spec.get("admissionChecksStrategy") or {}).get("admissionChecks") or []
    for index, check in enumerate(checks):
        for number, name in enumerate(check.get("onFlavors") or []):
            if name not in flavors:
                where = ("spec", "admissionChecksStrategy", "admissionChecks", index, "onFlavors", number)
                yield where, f"the queue has no flavor {name!r}"


@rule(OBJECT, "ClusterQueue")
def a_queue_is_not_too_wide(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/webhooks/clusterqueue_webhook.go validateTotalFlavors, validateTotalCoveredResources."""
    # These limits hold over all groups together; the schema can only bound each list by itself.
    for key in ("flavors", "coveredResources"):
        if (total := sum(len(group[key]) for _, group in _groups(target))) > 256:
            yield ("spec", "resourceGroups"), f"{total} {key} are more than 256"


@rule(OBJECT, "ClusterQueue")
def a_queue_is_for_some_namespace(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/cache: a missing selector matches no namespace."""
    # Such a queue is accepted, and every workload waits in it. The empty selector is not a missing one: it matches
    # everything.
    if target.spec.get("namespaceSelector") is None:
        yield ("spec",), "namespaceSelector is missing: the queue admits from no namespace ({} means all)"


@rule(OBJECT, "LocalQueue")
def a_queue_is_for_this_namespace(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/scheduler: workloads of a namespace that the ClusterQueue does not select stay inadmissible."""
    queue = target.context.by_kind.get("ClusterQueue", {}).get(str(target.spec.get("clusterQueue"))) or {}
    selector = (queue.get("spec") or {}).get("namespaceSelector")
    own = str(target.object["metadata"].get("namespace"))
    space = target.context.by_kind.get("Namespace", {}).get(own) or {}
    labels = {**((space.get("metadata") or {}).get("labels") or {}), "kubernetes.io/metadata.name": own}
    if selector is not None and not selects(selector, labels):
        yield ("spec", "clusterQueue"), f"ClusterQueue {target.spec['clusterQueue']} does not admit from {own}"


@rule(OBJECT, "ClusterQueue")
def a_cohort_has_more_than_one_queue(target: RuleTarget) -> Violations:
    """Project convention: a cohort is created by naming it, so a typo creates one without lenders."""
    # A Cohort object makes the name deliberate, since it may have a quota or a parent of its own.
    name = target.spec.get("cohortName")
    others = [one for one in target.context.of_kinds("ClusterQueue") if one["spec"].get("cohortName") == name]
    if name and len(others) < 2 and not target.context.has("Cohort", name):
        yield ("spec", "cohortName"), f"no other queue belongs to the cohort {name!r}"


@rule(OBJECT, "ResourceFlavor")
def taints_of_a_flavor_differ(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/webhooks/resourceflavor_webhook.go validateNodeTaints."""
    # The value is not part of the key: one node cannot carry two taints that differ in their value only.
    seen = set()
    for index, taint in enumerate(target.spec.get("nodeTaints") or []):
        if (key := (taint["key"], taint.get("effect"))) in seen:
            yield ("spec", "nodeTaints", index), f"the taint {taint['key']} is listed twice"
        seen.add(key)


@rule(OBJECT, "ResourceFlavor")
def taints_and_labels_of_a_flavor_are_well_formed(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/webhooks/resourceflavor_webhook.go ValidateLabels, validateNodeTaints."""
    spec = target.spec
    for index, taint in enumerate(spec.get("nodeTaints") or []):
        if not qualified_name(taint["key"]) or not LABEL_VALUE.fullmatch(taint.get("value", "")):
            yield ("spec", "nodeTaints", index), f"{taint['key']}={taint.get('value', '')} is not a valid taint"
    for key, value in (spec.get("nodeLabels") or {}).items():
        if not qualified_name(key) or not LABEL_VALUE.fullmatch(value):
            yield ("spec", "nodeLabels", key), f"{key}={value} is not a valid label"


def _groups(target: RuleTarget) -> Iterator[tuple[FieldPath, KubeObject]]:
    for index, group in enumerate(target.spec.get("resourceGroups") or []):
        yield ("spec", "resourceGroups", index), group


def _quotas(target: RuleTarget) -> Iterator[tuple[FieldPath, KubeObject]]:
    for path, group in _groups(target):
        for index, flavor in enumerate(group["flavors"]):
            for number, item in enumerate(flavor["resources"]):
                yield (*path, "flavors", index, "resources", number), item
