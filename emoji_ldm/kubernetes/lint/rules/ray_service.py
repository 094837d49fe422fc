"""Rules of KubeRay for RayServices."""

from __future__ import annotations

from emoji_ldm.kubernetes.lint.rendering import KubeObject
from emoji_ldm.kubernetes.lint.rules.rule import OBJECT, RuleTarget, Violations, rule

INCREMENTAL = "NewClusterWithIncrementalUpgrade"
# This annotation makes KubeRay mark a service as failed for good if its first cluster is not ready in time. Here that
# time has no bound: the service waits until the first training has written a checkpoint.
TIMEOUT = "ray.io/initializing-timeout"
OPTIONS = ("spec", "upgradeStrategy", "clusterUpgradeOptions")


@rule(OBJECT, "RayService")
def a_service_is_not_given_up_for_good(target: RuleTarget) -> Violations:
    """KubeRay 1.7 rayservice_controller.go isInitializingTimeout: only a new object recovers; upgrades ignore it."""
    if TIMEOUT in target.annotations:
        yield (
            ("metadata", "annotations", TIMEOUT),
            "it would end a service for good while that waits for its first model",
        )


@rule(OBJECT, "RayService")
def the_head_service_has_no_name_of_its_own(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateRayServiceSpec."""
    # During an upgrade there are two clusters with one specification, and a fixed name could belong to the head Service
    # of only one of them.
    service = target.spec["rayClusterConfig"]["headGroupSpec"].get("headService") or {}
    if (service.get("metadata") or {}).get("name"):
        yield ("spec", "rayClusterConfig", "headGroupSpec", "headService"), "headService.metadata.name must not be set"


@rule(OBJECT, "RayService")
def the_kind_of_upgrade_exists(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateRayServiceSpec."""
    kind = (target.spec.get("upgradeStrategy") or {}).get("type")
    if kind not in (None, INCREMENTAL, "NewCluster", "None"):
        yield (
            ("spec", "upgradeStrategy", "type"),
            f"unknown upgrade type {kind!r}: use {INCREMENTAL}, NewCluster or None",
        )


@rule(OBJECT, "RayService")
def the_old_cluster_waits_no_negative_time(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateRayServiceSpec."""
    if (target.spec.get("rayClusterDeletionDelaySeconds") or 0) < 0:
        yield ("spec", "rayClusterDeletionDelaySeconds"), "rayClusterDeletionDelaySeconds is negative"


@rule(OBJECT, "RayService")
def an_incremental_upgrade_needs_an_autoscaler(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateClusterUpgradeOptions."""
    # The old and the new cluster share the traffic during the upgrade, so each must change its size with its share.
    if _options(target) is not None and not target.spec["rayClusterConfig"].get("enableInTreeAutoscaling"):
        yield ("spec", "upgradeStrategy", "type"), f"{INCREMENTAL} needs enableInTreeAutoscaling"


@rule(OBJECT, "RayService")
def an_incremental_upgrade_has_a_gateway(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateClusterUpgradeOptions."""
    # Traffic is shifted in steps by the weights of an HTTPRoute, for which the operator needs a Gateway of some class.
    if (options := _options(target)) is not None and not options.get("gatewayClassName"):
        yield ("spec", "upgradeStrategy"), f"{INCREMENTAL} needs clusterUpgradeOptions.gatewayClassName"


@rule(OBJECT, "RayService")
def steps_of_an_upgrade_fit_its_surge(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateClusterUpgradeOptions."""
    # A surge has a default, a step has none: -1 stands for a missing step and fails the comparison below.
    if (options := _options(target)) is None:
        return
    surge, step = options.get("maxSurgePercent", 100), options.get("stepSizePercent", -1)
    if not 0 <= surge <= 100:
        yield (*OPTIONS, "maxSurgePercent"), "maxSurgePercent must lie between 0 and 100"
    if not 0 <= step <= surge:
        yield (*OPTIONS, "stepSizePercent"), f"stepSizePercent must lie between 0 and maxSurgePercent ({surge})"


@rule(OBJECT, "RayService")
def steps_of_an_upgrade_take_time(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateClusterUpgradeOptions."""
    # A missing interval is as wrong as 0: the operator needs to know how long to wait between two steps.
    if (options := _options(target)) is not None and (options.get("intervalSeconds") or 0) <= 0:
        yield (*OPTIONS, "intervalSeconds"), "intervalSeconds must be positive"


def _options(target: RuleTarget) -> KubeObject | None:
    """The options of an incremental upgrade; None for other upgrade types."""
    strategy = target.spec.get("upgradeStrategy") or {}
    return (strategy.get("clusterUpgradeOptions") or {}) if strategy.get("type") == INCREMENTAL else None
