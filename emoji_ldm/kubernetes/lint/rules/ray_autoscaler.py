"""Rules of KubeRay for clusters with an autoscaler."""

from __future__ import annotations

from emoji_ldm.kubernetes.lint.rules.rule import (
    CLUSTER,
    GROUP,
    RuleTarget,
    Violations,
    autoscaled,
    env,
    head_container,
    rule,
    version_of,
)

# Autoscaler v2 can be chosen in two ways, by this variable of the head or by `autoscalerOptions.version`. KubeRay
# refuses to guess which of the two is meant, and this project uses the field.
V2_SWITCH = "RAY_enable_autoscaler_v2"
HEAD_ENV = ("headGroupSpec", "template", "spec", "containers", 0, "env")


@rule(CLUSTER)
def the_switch_of_v2_needs_an_autoscaler(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateRayClusterSpec, RAY_ENABLE_AUTOSCALER_V2."""
    # Other values leave v2 off, so the operator tolerates them; the comparison repeats its own two spellings.
    switch = env(head_container(target.value), V2_SWITCH)
    if switch and switch.get("value") in ("1", "true") and not autoscaled(target.value):
        yield HEAD_ENV, f"{V2_SWITCH} is set without enableInTreeAutoscaling"


@rule(CLUSTER)
def the_version_of_the_autoscaler_is_said_once(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateRayClusterSpec."""
    options = target.value.get("autoscalerOptions") or {}
    if autoscaled(target.value) and options.get("version") and env(head_container(target.value), V2_SWITCH):
        yield HEAD_ENV, f"autoscalerOptions.version and {V2_SWITCH} are both set: keep the former"


@rule(CLUSTER)
def a_head_under_v2_is_never_restarted(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateRayClusterSpec, IsAutoscalingV2Enabled."""
    # Autoscaler v2 follows each Pod as one instance of Ray. A container that the kubelet restarts would come back under
    # the same Pod as another Ray node, so lost Pods have to be replaced by new ones. An unset policy is fine, because
    # the operator then sets Never itself.
    policy = target.value["headGroupSpec"]["template"]["spec"].get("restartPolicy")
    if v2(target.value) and policy not in (None, "", "Never"):
        yield ("headGroupSpec", "template", "spec", "restartPolicy"), "autoscaler v2 requires restartPolicy Never"


@rule(CLUSTER)
def workers_under_v2_are_never_restarted(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateRayClusterSpec, IsAutoscalingV2Enabled."""
    for index, group in enumerate(target.value.get("workerGroupSpecs") or []):
        if v2(target.value) and group["template"]["spec"].get("restartPolicy") not in (None, "", "Never"):
            where = ("workerGroupSpecs", index, "template", "spec", "restartPolicy")
            yield where, "autoscaler v2 requires restartPolicy Never"


@rule(GROUP)
def idle_timeouts_of_groups_need_v2(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go validateWorkerGroupIdleTimeout."""
    if target.value.get("idleTimeoutSeconds") is not None and not v2(target.cluster):
        yield ("idleTimeoutSeconds",), "idleTimeoutSeconds of a group needs autoscalerOptions.version v2"


@rule(GROUP)
def priorities_of_groups_need_v2(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go validateWorkerGroupPriority."""
    if target.value.get("priority") and not v2(target.cluster):
        yield ("priority",), "priority of a group needs autoscalerOptions.version v2"


@rule(GROUP)
def priorities_of_groups_need_ray_2_56(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go validateWorkerGroupPriority, minimum 2.56.0."""
    # A version that cannot be parsed counts as too old: the operator refuses it as well.
    version = (target.cluster or {}).get("rayVersion")
    if target.value.get("priority") and (version_of(version) or (0,)) < (2, 56):
        yield ("priority",), f"priority of a group needs Ray 2.56 or newer, not {version}"


@rule(CLUSTER)
def groups_are_not_suspended_under_an_autoscaler(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateRayClusterSpec."""
    # The operator holds a suspended group at no Pods, while the autoscaler may ask for Pods of the same group.
    for index, group in enumerate(target.value.get("workerGroupSpecs") or []):
        if group.get("suspend") and autoscaled(target.value):
            yield ("workerGroupSpecs", index, "suspend"), "a group cannot be suspended while the autoscaler runs"


@rule(CLUSTER)
def the_idle_timeout_is_not_negative(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateRayClusterSpec."""
    if ((target.value.get("autoscalerOptions") or {}).get("idleTimeoutSeconds") or 0) < 0:
        yield ("autoscalerOptions", "idleTimeoutSeconds"), "idleTimeoutSeconds is negative"


@rule(CLUSTER)
def the_start_command_of_the_sidecar_is_the_operators(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go KUBERAY_GEN_AUTOSCALER_START_CMD."""
    if env(target.value.get("autoscalerOptions") or {}, "KUBERAY_GEN_AUTOSCALER_START_CMD"):
        yield ("autoscalerOptions", "env"), "KUBERAY_GEN_AUTOSCALER_START_CMD is set by the operator itself"


@rule(CLUSTER)
def options_of_the_autoscaler_need_one(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/common/pod.go: options without enableInTreeAutoscaling are ignored."""
    # The operator accepts this without a word, and the cluster silently keeps its size.
    if target.value.get("autoscalerOptions") and not autoscaled(target.value):
        yield ("autoscalerOptions",), "autoscalerOptions have no effect without enableInTreeAutoscaling"


@rule(CLUSTER)
def the_autoscaler_is_v2(target: RuleTarget) -> Violations:
    """Ray 2.60 docs: v1 knows neither idle timeouts per group nor priorities."""
    # An unset version is wrong as well: the rules about idle timeouts and priorities of groups need v2 to be stated.
    if autoscaled(target.value) and not v2(target.value):
        yield ("autoscalerOptions",), "autoscalerOptions.version must be v2"


@rule(CLUSTER)
def the_autoscalers_head_may_talk_to_the_api_server(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/common/rbac.go: the operator binds a Role to the head's own account."""
    # The sidecar scales the cluster by changing the replicas of its RayCluster. Without a token every such call is
    # rejected, so the cluster would run and never grow. An unset field is fine, because Kubernetes mounts the token by
    # default.
    spec = target.value["headGroupSpec"]["template"]["spec"]
    if autoscaled(target.value) and spec.get("automountServiceAccountToken") is False:
        where = ("headGroupSpec", "template", "spec", "automountServiceAccountToken")
        yield where, "the autoscaler sidecar needs the token of its service account"


def v2(cluster: dict[str, object] | None) -> bool:
    """Whether the cluster's autoscaler is v2."""
    options = (cluster or {}).get("autoscalerOptions")
    return autoscaled(cluster) and isinstance(options, dict) and options.get("version") == "v2"
