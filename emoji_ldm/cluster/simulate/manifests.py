"""What a scenario takes from an overlay: queues with quotas, shapes and places of Pods, grace periods, node limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.lint.pods import ray_cluster, value_at
from emoji_ldm.kubernetes.lint.quantities import duration_s, quantity
from emoji_ldm.kubernetes.lint.rendering import KubeObject, render

GPU = "nvidia.com/gpu"
NEVER_S = 1e10  # longer than any simulation
POOL = "emoji-ldm/pool"


def fill(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A scenario's values with what its overlay says; what the scenario says itself wins.

    Raises:
        ConfigError: The overlay cannot be rendered, or has no RayJob or RayService of a name.
    """
    overlay = values.get("overlay")
    if not overlay:
        return values
    things = render(folder, str(overlay))
    found = queues(things)
    for name, spec in (values.get("queues") or {}).items():
        found[name] = {**found.get(name, {}), **spec}
    values["queues"] = found
    for name, extra in node_pools(things).items():
        if name in values["pools"]:
            values["pools"][name] = {**extra_fields(values["pools"][name], extra), **values["pools"][name]}
    for work in values.get("work") or []:
        if work.get("like"):
            like(work, things, list(values["pools"]))
    return values


def amount(text: object) -> float:
    """A Kubernetes quantity as a plain number: 500m is 0.5, 8Gi is 2**33."""
    number = quantity(text)
    if number is None:
        raise ConfigError(f"{text!r} is no Kubernetes quantity, such as 500m, 4 or 8Gi")
    return float(number)


def of(resource: str, text: object) -> float:
    """A resource in a scenario's units: cores, GiB, whole GPUs."""
    return amount(text) / (2**30 if resource == "memory" else 1)


def duration(text: object) -> float:
    """Seconds of Go's 1h30m, or of Karpenter's Never."""
    seconds = NEVER_S if text == "Never" else duration_s(text)
    if seconds is None:
        raise ConfigError(f"{text!r} is no duration, such as 30s or 1h30m")
    return seconds


def queues(things: list[KubeObject]) -> dict[str, dict[str, Any]]:
    """The ClusterQueues, by name."""
    found: dict[str, dict[str, Any]] = {}
    for thing in things:
        if thing.get("kind") != "ClusterQueue":
            continue
        spec = thing["spec"]
        preemption = spec.get("preemption") or {}
        borrow = preemption.get("borrowWithinCohort") or {}
        queue: dict[str, Any] = {
            "cohort": spec.get("cohortName") or spec.get("cohort") or "",
            "within": preemption.get("withinClusterQueue", "Never"),
            "reclaim": preemption.get("reclaimWithinCohort", "Never"),
            "strict": spec.get("queueingStrategy") == "StrictFIFO",
            "nominal": {}, "borrowing": {}, "lending": {},
        }  # fmt: skip
        if borrow.get("policy") == "LowerPriority":
            queue["borrow_over"] = borrow.get("maxPriorityThreshold", 2**31)
        for flavor in (f for group in spec.get("resourceGroups") or [] for f in group["flavors"]):
            for quota in flavor["resources"]:
                for field, key in (
                    ("nominal", "nominalQuota"),
                    ("borrowing", "borrowingLimit"),
                    ("lending", "lendingLimit"),
                ):
                    if key in quota:
                        queue[field].setdefault(flavor["name"], {})[quota["name"]] = of(quota["name"], quota[key])
        found[thing["metadata"]["name"]] = queue
    return found


def node_pools(things: list[KubeObject]) -> dict[str, dict[str, Any]]:
    """Limits and idle times of Karpenter's NodePools, by name."""
    found = {}
    for thing in things:
        if thing.get("kind") == "NodePool":
            after = str(value_at(thing, ("spec", "disruption", "consolidateAfter")) or "")
            limits = {name: of(name, value) for name, value in (thing["spec"].get("limits") or {}).items()}
            found[thing["metadata"]["name"]] = {"limits": limits, "idle_s": duration(after) if after else None}
    return found


def extra_fields(pool: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """`limit` in nodes of the scenario's machine, and `idle_s`, from a NodePool."""
    sizes = {"cpu": pool.get("cpu"), "memory": pool.get("memory_gib"), GPU: pool.get("gpus")}
    nodes = [int(most / float(size)) for name, most in extra["limits"].items() if (size := sizes.get(name))]
    fields: dict[str, Any] = {"limit": min(nodes)} if nodes else {}
    return fields if extra["idle_s"] is None else {**fields, "idle_s": extra["idle_s"]}


def like(work: dict[str, Any], things: list[KubeObject], pools: list[str]) -> None:
    """Queue, priority, worker groups, grace period and autoscaler of the RayJob or RayService `work["like"]`."""
    name = work["like"]
    thing = next(
        (t for t in things if t.get("kind") in ("RayJob", "RayService") and t["metadata"]["name"] == name), None
    )
    cluster = ray_cluster(thing) if thing else None
    if thing is None or cluster is None:
        jobs = sorted(t["metadata"]["name"] for t in things if t.get("kind") in ("RayJob", "RayService"))
        raise ConfigError(f"work {work['name']}: like {name!r}: the overlay has no such RayJob ({', '.join(jobs)})")
    labels = thing["metadata"].get("labels") or {}
    # A service stands in no queue: what the quota of its name keeps free is its own.
    work.setdefault(
        "queue", labels.get("kueue.x-k8s.io/queue-name", name if thing["kind"] == "RayService" else "default")
    )
    pod = (cluster.get("headGroupSpec") or {}).get("template", {}).get("spec", {})
    priority = labels.get("kueue.x-k8s.io/priority-class", pod.get("priorityClassName"))
    classes = {t["metadata"]["name"]: t["value"] for t in things if t.get("kind") == "WorkloadPriorityClass"}
    if priority in classes:
        work.setdefault("priority", classes[priority])
    options = cluster.get("autoscalerOptions") or {}
    work.setdefault("upscaling", "Conservative" if options.get("upscalingMode") == "Conservative" else "Default")
    groups = [_group(spec, work.get("flavors"), pools) for spec in cluster.get("workerGroupSpecs") or []]
    if "groups" in work and any(key in work for key in ("workers", "most_workers", "flavors")):
        raise ConfigError(f"work {work['name']}: give its groups, or workers and flavors of those of {name!r}")
    if groups and "most_workers" in work:
        groups[0]["most"] = work["most_workers"]
    if groups and "workers" in work:
        groups[0] |= {"least": work["workers"], "most": work.get("most_workers", work["workers"])}
        if not work.get("all_groups"):
            groups = groups[:1]
    for field, key in (("grace_s", "terminationGracePeriodSeconds"),):
        values = [value_at(spec, ("template", "spec", key)) for spec in cluster.get("workerGroupSpecs") or []]
        if values and values[0] is not None:
            work.setdefault(field, values[0])
    work.setdefault("groups", groups)
    work.pop("all_groups", None)


def _group(spec: KubeObject, flavors: list[str] | None, pools: list[str]) -> dict[str, Any]:
    pod = value_at(spec, ("template", "spec"))
    assert isinstance(pod, dict)
    container = pod["containers"][0]
    resources = container.get("resources") or {}
    requests = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}  # as the API server fills in
    chosen = (pod.get("nodeSelector") or {}).get(POOL)
    gpus, hosts = int(of(GPU, requests.get(GPU, "0"))), int(spec.get("numOfHosts") or 1)
    return {
        "name": spec["groupName"],
        "flavors": flavors or ([chosen] if chosen else pools),
        "cpu": of("cpu", requests.get("cpu", "1")),
        "memory_gib": of("memory", requests.get("memory", "1Gi")),
        "gpus": gpus,
        "image": "gpu" if gpus else "browser" if "browser" in f"{chosen}{container.get('image')}" else "cpu",
        "least": int(spec.get("minReplicas", spec.get("replicas", 0)) or 0) * hosts,
        "most": int(spec.get("maxReplicas", spec.get("replicas", 0)) or 0) * hosts,
    }
