"""Completes a scenario from a rendered overlay: queues with quotas, worker groups, grace periods and node limits."""

from __future__ import annotations

from collections.abc import Iterator
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
    queues = {obj["metadata"]["name"]: cluster_queue(obj) for obj in _of_kind(manifests, "ClusterQueue")}
    # Values that the scenario states replace those of the manifest, so that one question ("what if the limit were
    # 500?") needs one line.
    for name, spec in (values.get("queues") or {}).items():
        # A field of the scenario replaces that of the overlay as a whole; quotas are not merged by flavor.
        queues[name] = {**queues.get(name, {}), **spec}
    values["queues"] = queues
    for obj in _of_kind(manifests, "NodePool"):
        pool = values["pools"].get(obj["metadata"]["name"])
        if pool is not None:
            # The scenario's own values come last and win; the limit is computed from the machine that they describe.
            pool |= {**node_pool(obj, pool), **pool}
    for work in values.get("work") or []:
        if work.get("like"):
            fill_work(work, manifests, list(values["pools"]))
    return values


def _of_kind(manifests: list[KubeObject], *kinds: str) -> Iterator[KubeObject]:
    return (obj for obj in manifests if obj.get("kind") in kinds)


def amount(resource: str, text: object) -> float:
    """A Kubernetes quantity in a scenario's units: cores, GiB, whole GPUs."""
    number = quantity(text)
    if number is None:
        raise ConfigError(f"{text!r} is not a Kubernetes quantity, such as 500m, 4 or 8Gi")
    return float(number) / (2**30 if resource == "memory" else 1)


def duration(text: object) -> float:
    """Seconds of a Go duration such as 1h30m, or of Karpenter's Never."""
    # A number instead of infinity, because a scenario accepts finite numbers only.
    seconds = NEVER_S if text == "Never" else duration_s(text)
    if seconds is None:
        raise ConfigError(f"{text!r} is not a duration, such as 30s or 1h30m")
    return seconds


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
    return ({"limit": min(nodes)} if nodes else {}) | ({"idle_s": duration(after)} if after else {})


def fill_work(work: dict[str, Any], manifests: list[KubeObject], pools: list[str]) -> None:
    """Set queue, priority, worker groups and grace period as the RayJob or RayService `work["like"]` has them."""
    name = work["like"]
    named = {obj["metadata"]["name"]: obj for obj in _of_kind(manifests, "RayJob", "RayService")}
    cluster = ray_cluster(named[name]) if name in named else None
    if cluster is None:
        known = ", ".join(sorted(named))
        raise ConfigError(f"work {work['name']}: like {name!r}: the overlay has no such RayJob ({known})")
    labels = named[name]["metadata"].get("labels") or {}
    # A RayService is not queued by Kueue: the queue of its name reserves the quota that it uses.
    own_queue = name if named[name]["kind"] == "RayService" else "default"
    work.setdefault("queue", labels.get("kueue.x-k8s.io/queue-name", own_queue))
    head = value_at(cluster, ("headGroupSpec", "template", "spec")) or {}
    assert isinstance(head, dict)
    classes = {obj["metadata"]["name"]: obj["value"] for obj in _of_kind(manifests, "WorkloadPriorityClass")}
    priority = labels.get("kueue.x-k8s.io/priority-class", head.get("priorityClassName"))
    if priority in classes:
        work.setdefault("priority", classes[priority])
    specs = cluster.get("workerGroupSpecs") or []
    grace_s = value_at(specs[0], ("template", "spec", "terminationGracePeriodSeconds")) if specs else None
    if grace_s is not None:
        work.setdefault("grace_s", grace_s)
    _fill_groups(work, specs, pools)


def _fill_groups(work: dict[str, Any], specs: list[KubeObject], pools: list[str]) -> None:
    """Set the worker groups of the manifest, the first one resized as the scenario asks."""
    if "groups" in work and any(key in work for key in ("workers", "most_workers", "flavors")):
        raise ConfigError(f"work {work['name']}: give its groups, or workers and flavors of those of {work['like']!r}")
    groups = [worker_group(spec, work.get("flavors"), pools) for spec in specs]
    if groups and "most_workers" in work:
        groups[0]["max_replicas"] = work["most_workers"]
    if groups and "workers" in work:
        groups[0] |= {"min_replicas": work["workers"], "max_replicas": work.get("most_workers", work["workers"])}
        # A fixed number of workers describes one group; the others of the manifest, such as one of spot nodes, would
        # add to it.
        groups = groups[:1]
    work.setdefault("groups", groups)


def worker_group(spec: KubeObject, flavors: list[str] | None, pools: list[str]) -> dict[str, Any]:
    """The fields of a `WorkerGroupSpec`, from an item of workerGroupSpecs."""
    pod = spec["template"]["spec"]
    container = pod["containers"][0]
    resources = container.get("resources") or {}
    # The API server copies limits into missing requests.
    requests = {
        **(resources.get("limits") or {}),
        **(resources.get("requests") or {}),
    }
    # A group that selects no pool may run in any of them, as Kueue may assign it any flavor.
    pool = (pod.get("nodeSelector") or {}).get(POOL_LABEL)
    gpus, hosts = int(amount(GPU, requests.get(GPU, "0"))), int(spec.get("numOfHosts") or 1)
    return {
        "name": spec["groupName"],
        "flavors": flavors or ([pool] if pool else pools),
        "cpu": amount("cpu", requests.get("cpu", "1")),
        "memory_gib": amount("memory", requests.get("memory", "1Gi")),
        "gpus": gpus,
        "image": "gpu" if gpus else "browser" if "browser" in f"{pool}{container.get('image')}" else "cpu",
        # A replica of several hosts is several Pods, and the simulation knows Pods only.
        "min_replicas": int(spec.get("minReplicas", spec.get("replicas", 0)) or 0) * hosts,
        "max_replicas": int(spec.get("maxReplicas", spec.get("replicas", 0)) or 0) * hosts,
    }
