"""Whether Pods can be placed, keep what they were promised, and may be moved."""

from __future__ import annotations

import re
from collections.abc import Iterator

from emoji_ldm.kubernetes.lint.k8s_enums import RESOURCES
from emoji_ldm.kubernetes.lint.pods import ExpandedPod, FieldPath
from emoji_ldm.kubernetes.lint.quantities import quantity
from emoji_ldm.kubernetes.lint.rendering import KubeObject
from emoji_ldm.kubernetes.lint.rules.kueue_queues import tolerates
from emoji_ldm.kubernetes.lint.rules.rule import CONTAINER, OBJECT, POD, RuleTarget, Violations, env, rule

GPU = "nvidia.com/gpu"
GPU_TAINT = {"key": GPU, "effect": "NoSchedule"}
SPOT_TAINT = {"key": "emoji-ldm/spot", "effect": "NoSchedule"}
POOL = "emoji-ldm/pool"
POOLS = ("cpu", "browser", "gpu-on-demand", "gpu-spot")


@rule(POD)
def a_gpu_request_tolerates_gpu_nodes(target: RuleTarget) -> Violations:
    """design: GPU nodes bear the taint nvidia.com/gpu:NoSchedule."""
    spec = target.value["spec"]
    for index, container in enumerate(spec.get("containers") or []):
        if _gpus(container) and not _tolerated(spec, GPU_TAINT):
            where = ("spec", "containers", index, "resources", "limits", GPU)
            yield where, f"asks for a GPU and does not tolerate {GPU}:NoSchedule: it would wait for ever"


@rule(POD)
def only_gpu_requests_tolerate_gpu_nodes(target: RuleTarget) -> Violations:
    """design: a Pod without GPUs has no target on a GPU node."""
    spec = target.value["spec"]
    if _tolerated(spec, GPU_TAINT) and not any(_gpus(one) for one in spec.get("containers") or []):
        yield ("spec", "tolerations"), "tolerates GPU nodes but asks for no GPU"


@rule(POD)
def pools_exist(target: RuleTarget) -> Violations:
    """design: nodes bear the label emoji-ldm/pool."""
    pool = (target.value["spec"].get("nodeSelector") or {}).get(POOL)
    if pool is not None and pool not in POOLS:
        yield ("spec", "nodeSelector", POOL), f"no pool {pool!r} (there are: {', '.join(POOLS)})"


@rule(POD)
def pods_on_spot_nodes_tolerate_them(target: RuleTarget) -> Violations:
    """design: spot nodes bear the taint emoji-ldm/spot:NoSchedule."""
    spec = target.value["spec"]
    on_spot = (spec.get("nodeSelector") or {}).get(POOL) == "gpu-spot"
    flavored = target.context.uses_kueue and any("kueue.x-k8s.io/queue-name" in key for key in target.labels)
    if on_spot and not flavored and not _tolerated(spec, SPOT_TAINT):
        yield ("spec",), "selects spot nodes and does not tolerate emoji-ldm/spot:NoSchedule"


@rule(POD)
def heads_stay_off_spot_nodes(target: RuleTarget) -> Violations:
    """facts: a head on a spot node takes the whole cluster with it."""
    if target.pod is not None and target.pod.role == "head" and _tolerated(target.value["spec"], SPOT_TAINT):
        yield ("spec", "tolerations"), "the head tolerates spot nodes: losing it loses the cluster"


@rule(CONTAINER)
def limits_are_not_below_requests(target: RuleTarget) -> Violations:
    """API: a Pod whose limits are below its requests is refused."""
    resources = target.value.get("resources") or {}
    for name, text in (resources.get("requests") or {}).items():
        wanted, most = quantity(text), quantity((resources.get("limits") or {}).get(name))
        if wanted is not None and most is not None and wanted > most:
            yield ("resources", "requests", name), f"asks for {text} {name}, more than its limit"


@rule(CONTAINER)
def gpus_are_whole_and_equal(target: RuleTarget) -> Violations:
    """Kubernetes: extended resources cannot be overcommitted."""
    resources = target.value.get("resources") or {}
    wanted, most = ((resources.get(key) or {}).get(GPU) for key in ("requests", "limits"))
    if wanted is not None and quantity(wanted) != quantity(most):
        yield ("resources", "requests", GPU), f"GPUs requested ({wanted}) and allowed ({most}) must be equal"
    number = quantity(most)
    if number is not None and number.denominator != 1:
        yield ("resources", "limits", GPU), f"{most} is no whole number of GPUs"


@rule(CONTAINER)
def heads_and_gpu_workers_are_guaranteed(target: RuleTarget) -> Violations:
    """facts: requests = limits for heads and GPU workers."""
    if target.pod is None or target.injected or not _matters(target.pod):
        return
    resources = target.value.get("resources") or {}
    for name in ("cpu", "memory"):
        wanted, most = ((resources.get(key) or {}).get(name) for key in ("requests", "limits"))
        if quantity(wanted) != quantity(most):
            yield (
                ("resources",),
                f"{name} requested ({wanted}) and allowed ({most}) must be equal: nothing evicts it then",
            )


@rule(CONTAINER)
def every_container_has_limits(target: RuleTarget) -> Violations:
    """facts: limits set; a Pod without is the first to be killed, and the last to be counted."""
    limits = (target.value.get("resources") or {}).get("limits") or {}
    if missing := [name for name in ("cpu", "memory") if name not in limits]:
        yield ("resources",) if "resources" in target.value else (), f"has no limit of {' and '.join(missing)}"


@rule(CONTAINER)
def resources_are_known(target: RuleTarget) -> Violations:
    """facts: resource names are a free map; a misspelt GPU is a Pod without one."""
    for part in ("requests", "limits"):
        for name in (target.value.get("resources") or {}).get(part) or {}:
            if name not in RESOURCES:
                yield ("resources", part, name), f"no resource {name!r} (we use: {', '.join(sorted(RESOURCES))})"


@rule(OBJECT, "StatefulSet", "PersistentVolumeClaim")
def claims_ask_for_storage(target: RuleTarget) -> Violations:
    """API: storage is the one resource of a claim."""
    own = target.kind == "PersistentVolumeClaim"
    for index, claim in enumerate([target.object] if own else target.spec.get("volumeClaimTemplates") or []):
        path: FieldPath = () if own else ("spec", "volumeClaimTemplates", index)
        for part, values in (claim["spec"].get("resources") or {}).items():
            for name in set(values) - {"storage"}:
                yield (*path, "spec", "resources", part, name), f"a claim has no resource {name!r}"


@rule(POD)
def heads_see_no_gpus(target: RuleTarget) -> Violations:
    """ray#29753: the GPU operator shows all GPUs of a node to a Pod that asks for none."""
    if target.pod is None or target.pod.role != "head" or not target.context.of_kinds("NodePool"):
        return
    container = (target.value["spec"].get("containers") or [{}])[0]
    if not _gpus(container) and (env(container, "NVIDIA_VISIBLE_DEVICES") or {}).get("value") != "void":
        yield ("spec", "containers", 0), "NVIDIA_VISIBLE_DEVICES must be void on a head without GPUs"


@rule(OBJECT, "PodDisruptionBudget")
def budgets_of_ray_pods_are_numbers(target: RuleTarget) -> Violations:
    """Kubernetes policy/v1: Ray Pods belong to an object without scale."""
    spec = target.spec
    ray = [pod for pod in selected(target, spec.get("selector") or {}) if pod.role != "pod"]
    if ray and not isinstance(spec.get("minAvailable"), int):
        yield ("spec",), "Ray Pods have no scale: only a whole number as minAvailable works"


@rule(OBJECT, "PodDisruptionBudget")
def budgets_select_pods(target: RuleTarget) -> Violations:
    """Kubernetes policy/v1: an empty budget protects nobody."""
    if not list(selected(target, target.spec.get("selector") or {})):
        yield ("spec", "selector"), "selects no Pod of this overlay"


@rule(OBJECT, "PodDisruptionBudget")
def budgets_say_one_thing(target: RuleTarget) -> Violations:
    """API: minAvailable and maxUnavailable exclude each other."""
    if ("minAvailable" in target.spec) == ("maxUnavailable" in target.spec):
        yield ("spec",), "set one of minAvailable and maxUnavailable"


@rule(OBJECT, "PodDisruptionBudget")
def budgets_are_numbers_or_percentages(target: RuleTarget) -> Violations:
    """API: a text must be a percentage."""
    for key in ("minAvailable", "maxUnavailable"):
        value = target.spec.get(key)
        if isinstance(value, str) and not re.fullmatch(r"\d{1,3}%", value):
            yield ("spec", key), f"{value!r} is neither a number nor a percentage"


@rule(OBJECT, "StatefulSet", "Deployment", "DaemonSet")
def selectors_match_their_template(target: RuleTarget) -> Violations:
    """API: a selector that does not match its own template is refused."""
    spec = target.spec
    labels = (spec["template"].get("metadata") or {}).get("labels") or {}
    if not selects(spec.get("selector") or {}, labels):
        yield ("spec", "selector"), "does not select the Pods of its own template"


@rule(POD)
def pods_are_spread_among_their_own(target: RuleTarget) -> Violations:
    """API: a spread constraint without its own Pods spreads nothing."""
    labels = (target.value.get("metadata") or {}).get("labels") or {}
    for index, item in enumerate(target.value["spec"].get("topologySpreadConstraints") or []):
        if not selects(item.get("labelSelector") or {}, labels):
            yield ("spec", "topologySpreadConstraints", index), "does not select the Pod itself"


def selected(target: RuleTarget, selector: KubeObject) -> Iterator[ExpandedPod]:
    """The Pods of the overlay that a label selector selects in the object's namespace."""
    space = target.object["metadata"].get("namespace", "default")
    return (pod for pod in target.context.pods if pod.namespace == space and selects(selector, pod.labels))


def selects(selector: KubeObject, labels: dict[str, str]) -> bool:
    """Whether a label selector (matchLabels, matchExpressions) matches labels; {} matches all."""
    exact = all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())
    return exact and all(_expression(item, labels) for item in selector.get("matchExpressions") or [])


def _expression(item: KubeObject, labels: dict[str, str]) -> bool:
    value, values = labels.get(item["key"]), item.get("values") or []
    if item["operator"] in ("In", "NotIn"):
        return bool((value in values) == (item["operator"] == "In"))
    return bool((value is not None) == (item["operator"] == "Exists"))


def _tolerated(spec: KubeObject, taint: KubeObject) -> bool:
    return any(tolerates(one, taint) for one in spec.get("tolerations") or [])


def _gpus(container: KubeObject) -> bool:
    resources = container.get("resources") or {}
    return any(GPU in (resources.get(part) or {}) for part in ("requests", "limits"))


def _matters(pod: ExpandedPod) -> bool:
    return pod.role == "head" or (pod.role == "worker" and any(map(_gpus, pod.spec.get("containers") or [])))
