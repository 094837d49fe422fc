"""Rules of scheduling: whether Pods can be placed, keep their resources, and may be evicted."""

from __future__ import annotations

import re
from collections.abc import Iterator

from emoji_ldm.kubernetes.lint.context import POOL, SPOT
from emoji_ldm.kubernetes.lint.k8s_enums import DEVICES, GPU_PART, RESOURCES
from emoji_ldm.kubernetes.lint.pods import ExpandedPod, FieldPath
from emoji_ldm.kubernetes.lint.quantities import quantity
from emoji_ldm.kubernetes.lint.rendering import KubeObject
from emoji_ldm.kubernetes.lint.rules.rule import CONTAINER, OBJECT, POD, RuleTarget, Violations, env, rule
from emoji_ldm.kubernetes.lint.selectors import selects, tolerates

GPU = "nvidia.com/gpu"
# A taint keeps every Pod without a matching toleration away. GPU nodes are tainted because they are expensive, spot
# nodes because they are lost at two minutes of notice: only what asks for them should run there.
GPU_TAINT = {"key": GPU, "effect": "NoSchedule"}
SPOT_TAINT = {"key": SPOT, "effect": "NoSchedule"}


@rule(POD)
def a_gpu_request_tolerates_gpu_nodes(target: RuleTarget) -> Violations:
    """Project convention: GPU nodes carry the taint nvidia.com/gpu:NoSchedule."""
    # Karpenter considers the same taints, so it would not even order a node for such a Pod.
    spec = target.value["spec"]
    for index, container in enumerate(spec.get("containers") or []):
        if _gpus(container) and not _tolerated(spec, GPU_TAINT):
            where = ("spec", "containers", index, "resources", "limits", GPU)
            yield where, f"requests a GPU but does not tolerate {GPU}:NoSchedule: it would wait forever"


@rule(POD)
def only_gpu_requests_tolerate_gpu_nodes(target: RuleTarget) -> Violations:
    """Project convention: a Pod that requests no GPU does not belong on a GPU node."""
    # The toleration alone has no effect on most days. It shows when the CPU nodes are full: the Pod then occupies a GPU
    # node, and the GPUs of that node are idle.
    spec = target.value["spec"]
    if _tolerated(spec, GPU_TAINT) and not any(_gpus(one) for one in spec.get("containers") or []):
        yield ("spec", "tolerations"), "tolerates GPU nodes but requests no GPU"


@rule(POD)
def pools_exist(target: RuleTarget) -> Violations:
    """Project convention: nodes carry the label emoji-ldm/pool; flavors and node pools say which there are."""
    pool, pools = (target.value["spec"].get("nodeSelector") or {}).get(POOL), target.context.pools
    if pool is not None and pool not in pools:
        yield ("spec", "nodeSelector", POOL), f"no pool {pool!r} (there are: {', '.join(sorted(pools)) or 'none'})"


@rule(OBJECT, "NodePool")
def node_pools_have_a_flavor(target: RuleTarget) -> Violations:
    """Project convention: Kueue admits to flavors, so nodes of a pool without one would never be used."""
    labels = ((target.spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
    if target.context.uses_kueue and POOL in labels and labels[POOL] not in target.context.pools:
        known = ", ".join(sorted(target.context.pools)) or "none"
        yield ("spec", "template", "metadata", "labels", POOL), f"no flavor of pool {labels[POOL]!r} (of: {known})"


@rule(POD)
def pods_on_spot_nodes_tolerate_them(target: RuleTarget) -> Violations:
    """Project convention: spot nodes carry the taint emoji-ldm/spot:NoSchedule."""
    spec = target.value["spec"]
    on_spot = (spec.get("nodeSelector") or {}).get(POOL) in target.context.spot_pools
    # Kueue adds the tolerations of the flavor that it assigns.
    flavored = target.context.uses_kueue and any("kueue.x-k8s.io/queue-name" in key for key in target.labels)
    if on_spot and not flavored and not _tolerated(spec, SPOT_TAINT):
        yield ("spec",), "selects spot nodes but does not tolerate emoji-ldm/spot:NoSchedule"


@rule(POD)
def heads_stay_off_spot_nodes(target: RuleTarget) -> Violations:
    """Project policy: a head that is lost with a spot node takes the whole cluster with it."""
    # Only the toleration is looked at: without it neither Kueue's flavor nor Karpenter can put the head on a spot node.
    if target.pod is not None and target.pod.role == "head" and _tolerated(target.value["spec"], SPOT_TAINT):
        yield ("spec", "tolerations"), "the head tolerates spot nodes: its loss would be the loss of the cluster"


@rule(CONTAINER)
def limits_are_not_below_requests(target: RuleTarget) -> Violations:
    """Kubernetes API: a Pod whose limits are below its requests is refused."""
    resources = target.value.get("resources") or {}
    for name, text in (resources.get("requests") or {}).items():
        requested, limit = quantity(text), quantity((resources.get("limits") or {}).get(name))
        if requested is not None and limit is not None and requested > limit:
            yield ("resources", "requests", name), f"requests {text} of {name}, more than its limit"


@rule(CONTAINER)
def gpus_are_whole_and_equal(target: RuleTarget) -> Violations:
    """Kubernetes: extended resources cannot be overcommitted."""
    # A limit without a request is fine, because the API server copies it; a request without a limit is not.
    resources = target.value.get("resources") or {}
    requested, limit = ((resources.get(key) or {}).get(GPU) for key in ("requests", "limits"))
    if requested is not None and quantity(requested) != quantity(limit):
        yield ("resources", "requests", GPU), f"GPUs requested ({requested}) and allowed ({limit}) must be equal"
    number = quantity(limit)
    if number is not None and number.denominator != 1:
        yield ("resources", "limits", GPU), f"{limit} is not a whole number of GPUs"


@rule(CONTAINER)
def heads_and_gpu_workers_are_guaranteed(target: RuleTarget) -> Violations:
    """Project policy: requests equal limits for heads and GPU workers."""
    if target.pod is None or target.injected or not _must_be_guaranteed(target.pod):
        return
    resources = target.value.get("resources") or {}
    for name in ("cpu", "memory"):
        requested, limit = ((resources.get(key) or {}).get(name) for key in ("requests", "limits"))
        if quantity(requested) != quantity(limit):
            yield (
                ("resources",),
                f"{name} requested ({requested}) and allowed ({limit}) must be equal: guaranteed Pods are evicted last",
            )


@rule(CONTAINER)
def every_container_has_limits(target: RuleTarget) -> Violations:
    """Project policy: every container has limits; without them a Pod is the first to be killed."""
    # Containers that operators add are included, because one container without limits decides the QoS class of its
    # whole Pod.
    limits = (target.value.get("resources") or {}).get("limits") or {}
    if missing := [name for name in ("cpu", "memory") if name not in limits]:
        yield ("resources",) if "resources" in target.value else (), f"has no limit of {' and '.join(missing)}"


@rule(CONTAINER)
def resources_are_known(target: RuleTarget) -> Violations:
    """Project policy: resource names are a free map, so a misspelt GPU resource yields a Pod without a GPU."""
    for part in ("requests", "limits"):
        for name in (target.value.get("resources") or {}).get(part) or {}:
            if name not in RESOURCES and not DEVICES.fullmatch(name):
                yield ("resources", part, name), f"no resource {name!r} (we use: {', '.join(sorted(RESOURCES))})"


@rule(OBJECT, "StatefulSet", "PersistentVolumeClaim")
def claims_ask_for_storage(target: RuleTarget) -> Violations:
    """Kubernetes API: storage is the one resource of a claim."""
    own = target.kind == "PersistentVolumeClaim"
    for index, claim in enumerate([target.object] if own else target.spec.get("volumeClaimTemplates") or []):
        path: FieldPath = () if own else ("spec", "volumeClaimTemplates", index)
        for part, values in (claim["spec"].get("resources") or {}).items():
            for name in set(values) - {"storage"}:
                yield (*path, "spec", "resources", part, name), f"a volume claim has no resource {name!r}"


@rule(POD)
def heads_see_no_gpus(target: RuleTarget) -> Violations:
    """ray#29753: the GPU operator shows all GPUs of a node to a Pod that asks for none."""
    # Without node pools, as on kind, no node has a GPU, so there is nothing to hide.
    if target.pod is None or target.pod.role != "head" or not target.context.of_kinds("NodePool"):
        return
    container = (target.value["spec"].get("containers") or [{}])[0]
    if not _gpus(container) and (env(container, "NVIDIA_VISIBLE_DEVICES") or {}).get("value") != "void":
        yield ("spec", "containers", 0), "NVIDIA_VISIBLE_DEVICES must be void on a head without GPUs"


@rule(OBJECT, "PodDisruptionBudget")
def budgets_of_ray_pods_are_numbers(target: RuleTarget) -> Violations:
    """Kubernetes policy/v1: Ray Pods belong to an object without scale."""
    # A percentage, and maxUnavailable of either form, is relative to the size of the controller, which Kubernetes reads
    # from its scale subresource. Ray Pods are owned by a RayCluster, which has none, so no disruption would ever be
    # allowed.
    spec = target.spec
    ray = [pod for pod in selected(target, spec.get("selector") or {}) if pod.role != "pod"]
    if ray and not isinstance(spec.get("minAvailable"), int):
        yield ("spec",), "Ray Pods have no scale subresource: minAvailable must be a whole number"


@rule(OBJECT, "PodDisruptionBudget")
def budgets_select_pods(target: RuleTarget) -> Violations:
    """Kubernetes policy/v1: a budget that selects no Pod protects nothing."""
    # The budget itself would be accepted and would simply count no Pods.
    if not list(selected(target, target.spec.get("selector") or {})):
        yield ("spec", "selector"), "selects no Pod of this overlay"


@rule(OBJECT, "PodDisruptionBudget")
def budgets_say_one_thing(target: RuleTarget) -> Violations:
    """Kubernetes API: minAvailable and maxUnavailable are mutually exclusive."""
    if ("minAvailable" in target.spec) == ("maxUnavailable" in target.spec):
        yield ("spec",), "set one of minAvailable and maxUnavailable"


@rule(OBJECT, "PodDisruptionBudget")
def budgets_are_numbers_or_percentages(target: RuleTarget) -> Violations:
    """Kubernetes API: a value that is a string must be a percentage."""
    for key in ("minAvailable", "maxUnavailable"):
        value = target.spec.get(key)
        if isinstance(value, str) and not re.fullmatch(r"\d{1,3}%", value):
            yield ("spec", key), f"{value!r} is neither a number nor a percentage"


@rule(OBJECT, "StatefulSet", "Deployment", "DaemonSet")
def selectors_match_their_template(target: RuleTarget) -> Violations:
    """Kubernetes API: a selector that does not match its own template is refused."""
    spec = target.spec
    labels = (spec["template"].get("metadata") or {}).get("labels") or {}
    if not selects(spec.get("selector") or {}, labels):
        yield ("spec", "selector"), "does not select the Pods of its own template"


@rule(POD)
def pods_are_spread_among_their_own(target: RuleTarget) -> Violations:
    """Kubernetes API: a spread constraint that does not select its own Pod has no effect."""
    # Such a constraint is valid: it counts other Pods than the one that is placed, so all replicas may land on one
    # node.
    labels = (target.value.get("metadata") or {}).get("labels") or {}
    for index, item in enumerate(target.value["spec"].get("topologySpreadConstraints") or []):
        if not selects(item.get("labelSelector") or {}, labels):
            yield ("spec", "topologySpreadConstraints", index), "does not select the Pod itself"


def selected(target: RuleTarget, selector: KubeObject) -> Iterator[ExpandedPod]:
    """The Pods of the overlay that a label selector selects in the object's namespace."""
    space = target.object["metadata"].get("namespace", "default")
    return (pod for pod in target.context.pods if pod.namespace == space and selects(selector, pod.labels))


def _tolerated(spec: KubeObject, taint: KubeObject) -> bool:
    return any(tolerates(one, taint) for one in spec.get("tolerations") or [])


def _gpus(container: KubeObject) -> bool:
    resources = container.get("resources") or {}
    asked = {name for part in ("requests", "limits") for name in resources.get(part) or {}}
    return any(name == GPU or GPU_PART.fullmatch(name) for name in asked)


def _must_be_guaranteed(pod: ExpandedPod) -> bool:
    # The kubelet evicts Pods of QoS class Guaranteed last: a lost head ends its cluster, a lost GPU worker costs most.
    return pod.role == "head" or (pod.role == "worker" and any(map(_gpus, pod.spec.get("containers") or [])))
