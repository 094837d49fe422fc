"""Completes a scenario from a rendered overlay: queues with quotas, worker groups, grace periods and node limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.lint.pods import ray_cluster, value_at
from emoji_ldm.kubernetes.lint.quantities import duration_s, quantity
from emoji_ldm.kubernetes.lint.rendering import KubeObject, render

GPU = "nvidia.com/gpu"
NEVER_S = 1e10  # longer than any simulation
POOL_LABEL = "emoji-ldm/pool"
QUOTAS = {"nominal": "nominalQuota", "borrowing": "borrowingLimit", "lending": "lendingLimit"}


def fill_from_overlay(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Add the values of the overlay in `folder` to a scenario; the scenario's own values take precedence.

    Raises:
        ConfigError: The overlay cannot be rendered, or lacks a RayJob or RayService that `like` names.
    """
    overlay = values.get("overlay")
    if not overlay:
        return values
    manifests = render(folder, str(overlay))
    queues = {name: cluster_queue(obj) for name, obj in _of_kind(manifests, "ClusterQueue").items()}
    # A field of the scenario replaces that of the overlay as a whole; quotas are not merged by flavor.
    for name, spec in (values.get("queues") or {}).items():
        queues[name] = queues.get(name, {}) | spec
    values["queues"] = queues
    for name, obj in _of_kind(manifests, "NodePool").items():
        if pool := values["pools"].get(name):
            # The limit is computed from the machine that the scenario describes.
            pool |= node_pool(obj, pool) | pool
    for name, work in values["work"].items():
        if work.get("like"):
            _fill_work(name, work, manifests)
    return values


def amount(resource: str, text: object) -> float:
    """A Kubernetes quantity in a scenario's units: cores, GiB, whole GPUs."""
    number = quantity(text)
    if number is None:
        raise ConfigError(f"{text!r} is not a Kubernetes quantity, such as 500m, 4 or 8Gi")
    return float(number) / (2**30 if resource == "memory" else 1)


def cluster_queue(obj: KubeObject) -> dict[str, Any]:
    """The fields of a `ClusterQueueSpec`, from a ClusterQueue."""
    spec = obj["spec"]
    queue: dict[str, Any] = {
        "cohort": spec.get("cohortName") or spec.get("cohort") or "",
        "strict": spec.get("queueingStrategy") == "StrictFIFO",
        **{field: {} for field in QUOTAS},
    }
    for flavor in (flavor for group in spec.get("resourceGroups") or [] for flavor in group["flavors"]):
        for quota in flavor["resources"]:
            for field, key in QUOTAS.items():
                if key in quota:
                    queue[field].setdefault(flavor["name"], {})[quota["name"]] = amount(quota["name"], quota[key])
    return queue


def node_pool(obj: KubeObject, pool: dict[str, Any]) -> dict[str, Any]:
    """The fields `limit` and `idle_s` of a `NodePoolSpec`, from a Karpenter NodePool.

    Karpenter limits resources, not nodes, so the limit depends on the machine that the scenario chose.
    """
    sizes = {"cpu": pool.get("cpu"), "memory": pool.get("memory_gib"), GPU: pool.get("gpus")}
    limits = {name: amount(name, value) for name, value in (obj["spec"].get("limits") or {}).items()}
    # The scarcest resource decides how many nodes fit below the limits.
    nodes = [int(limit / float(size)) for name, limit in limits.items() if (size := sizes.get(name))]
    after = value_at(obj, ("spec", "disruption", "consolidateAfter"))
    # A number instead of infinity, because a scenario accepts finite numbers only.
    idle_s = NEVER_S if after == "Never" else duration_s(after)
    return ({"limit": min(nodes)} if nodes else {}) | ({} if idle_s is None else {"idle_s": idle_s})


def worker_group(spec: KubeObject) -> dict[str, Any]:
    """The fields of a `WorkerGroupSpec`, from an item of workerGroupSpecs."""
    pod = spec["template"]["spec"]
    resources = pod["containers"][0].get("resources") or {}
    # The API server copies limits into missing requests.
    requests = (resources.get("limits") or {}) | (resources.get("requests") or {})
    return {
        "pool": (pod.get("nodeSelector") or {}).get(POOL_LABEL, spec["groupName"]),
        "cpu": amount("cpu", requests.get("cpu", "1")),
        "memory_gib": amount("memory", requests.get("memory", "1Gi")),
        "gpus": int(amount(GPU, requests.get(GPU, "0"))),
        "min_replicas": spec.get("minReplicas", spec.get("replicas", 0)),
        "max_replicas": spec.get("maxReplicas", spec.get("replicas", 0)),
    }


def _of_kind(manifests: list[KubeObject], *kinds: str) -> dict[str, KubeObject]:
    return {obj["metadata"]["name"]: obj for obj in manifests if obj.get("kind") in kinds}


def _fill_work(name: str, work: dict[str, Any], manifests: list[KubeObject]) -> None:
    """Set queue, priority, worker groups and grace period as the RayJob or RayService `work["like"]` has them."""
    like, known = work["like"], _of_kind(manifests, "RayJob", "RayService")
    cluster = ray_cluster(known[like]) if like in known else None
    if cluster is None:
        raise ConfigError(f"work {name}: like {like!r}: the overlay has no such RayJob ({', '.join(sorted(known))})")
    labels = known[like]["metadata"].get("labels") or {}
    # A RayService is not queued by Kueue: the queue of its name reserves the quota that it uses.
    own_queue = like if known[like]["kind"] == "RayService" else "default"
    work.setdefault("queue", labels.get("kueue.x-k8s.io/queue-name", own_queue))
    classes = _of_kind(manifests, "WorkloadPriorityClass")
    in_head = value_at(cluster, ("headGroupSpec", "template", "spec", "priorityClassName"))
    priority = labels.get("kueue.x-k8s.io/priority-class", in_head)
    if priority in classes:
        work.setdefault("priority", classes[priority]["value"])
    specs = cluster.get("workerGroupSpecs") or []
    grace_s = value_at(specs[0], ("template", "spec", "terminationGracePeriodSeconds")) if specs else None
    if grace_s is not None:
        work.setdefault("grace_s", grace_s)
    if "groups" not in work:
        work["groups"] = _groups(work, specs)
    elif {"workers", "most_workers", "pool"} & set(work):
        raise ConfigError(f"work {name}: give its groups, or workers and pool of those of {like!r}")


def _groups(work: dict[str, Any], specs: list[KubeObject]) -> dict[str, Any]:
    """The worker groups of the manifest, the first one resized as the scenario asks."""
    groups = {spec["groupName"]: worker_group(spec) for spec in specs}
    for group in groups.values():
        group["pool"] = work.get("pool", group["pool"])
    name, first = next(iter(groups.items()))
    if "most_workers" in work:
        first["max_replicas"] = work["most_workers"]
    if "workers" not in work:
        return groups
    # A fixed number of workers describes one group; the others of the manifest, such as one of spot nodes, would add to
    # it.
    return {name: first | {"min_replicas": work["workers"], "max_replicas": work.get("most_workers", work["workers"])}}
