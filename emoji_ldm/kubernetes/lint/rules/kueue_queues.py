"""What Kueue demands of the jobs, clusters and services it queues, and whether a queue can ever admit them."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from emoji_ldm.kubernetes.lint.pods import ExpandedPod
from emoji_ldm.kubernetes.lint.quantities import quantity
from emoji_ldm.kubernetes.lint.rendering import KubeObject
from emoji_ldm.kubernetes.lint.rules.rule import CLUSTER, JOB, OBJECT, POD, RuleTarget, Violations, autoscaled, rule

QUEUE, PRIORITY = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"
ELASTIC = "kueue.x-k8s.io/elastic-job"
MOST_GROUPS = 17  # 18 Pod sets of a Workload, less the head
RAY_KINDS = ("RayCluster", "RayJob", "RayService")
TOPOLOGY = ("kueue.x-k8s.io/podset-required-topology", "kueue.x-k8s.io/podset-preferred-topology")


@rule(JOB, "RayJob")
def a_queued_job_gives_its_cluster_back(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/controller/jobs/rayjob/rayjob_webhook.go validateCreate."""
    if _queued(target) and not target.value.get("shutdownAfterJobFinishes"):
        yield ("shutdownAfterJobFinishes",), "a queued job must set shutdownAfterJobFinishes"


@rule(JOB, "RayJob")
def a_queued_job_brings_its_cluster(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/controller/jobs/rayjob/rayjob_webhook.go validateCreate."""
    if _queued(target) and target.value.get("clusterSelector"):
        yield ("clusterSelector",), "Kueue does not queue a job with clusterSelector"


@rule(CLUSTER, *RAY_KINDS)
def a_queued_autoscaler_is_elastic(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/controller/jobs/raycluster/raycluster_webhook.go ValidateCreate."""
    if _queued(target) and autoscaled(target.value) and target.annotations.get(ELASTIC) != "true":
        yield ("enableInTreeAutoscaling",), f'autoscaling in a queue needs the annotation {ELASTIC}: "true"'


@rule(CLUSTER, *RAY_KINDS)
def a_queued_cluster_has_few_groups(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/controller/jobs/raycluster/raycluster_webhook.go, jobframework.MaxPodSets."""
    if _queued(target) and len(target.value.get("workerGroupSpecs") or []) > MOST_GROUPS:
        yield ("workerGroupSpecs",), f"Kueue takes at most {MOST_GROUPS} worker groups"


@rule(CLUSTER, *RAY_KINDS, "RayCronJob")
def no_group_is_called_head(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/controller/jobs/raycluster/raycluster_webhook.go headGroupPodSetName."""
    for index, group in enumerate(target.value.get("workerGroupSpecs") or []):
        if group["groupName"] == "head":
            yield ("workerGroupSpecs", index, "groupName"), "the name head is Kueue's for the head group"


@rule(OBJECT)
def queues_of_jobs_exist(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/controller/core: a workload of an unknown queue waits for ever."""
    name = target.labels.get(QUEUE)
    if name is not None and not target.context.has("LocalQueue", name):
        yield ("metadata", "labels", QUEUE), f"no LocalQueue {name!r} (there are: {target.context.names('LocalQueue')})"


@rule(OBJECT)
def priorities_of_queues_exist(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/util/priority: an unknown class is refused."""
    name = target.labels.get(PRIORITY)
    if name is not None and not target.context.has("WorkloadPriorityClass", name):
        known = target.context.names("WorkloadPriorityClass")
        yield ("metadata", "labels", PRIORITY), f"no WorkloadPriorityClass {name!r} (there are: {known})"


@rule(OBJECT, "RayJob")
def every_job_stands_in_a_queue(target: RuleTarget) -> Violations:
    """facts: jobs without a queue would take what the queues gave to others."""
    if target.context.uses_kueue and QUEUE not in target.labels:
        yield ("metadata",), f"the label {QUEUE} is missing: Kueue would not count this {target.kind}"


@rule(OBJECT, "RayService")
def a_service_stands_in_no_queue(target: RuleTarget) -> Violations:
    """Kueue 0.19 rayservice_controller.go PodsReady: not ready is evicted; kueue#11264: upgrades uncounted."""
    if QUEUE in target.labels:
        yield ("metadata", "labels", QUEUE), "Kueue would stop the service whenever it is not ready for some minutes"


@rule(OBJECT, "RayCronJob")
def jobs_of_a_cron_job_find_the_default_queue(target: RuleTarget) -> Violations:
    """KubeRay 1.7 raycronjob_controller.go: the jobs it makes get no labels."""
    if target.context.uses_kueue and not target.context.has("LocalQueue", "default"):
        yield (
            ("metadata", "name"),
            "jobs of a RayCronJob carry no labels: they by-pass Kueue without a LocalQueue `default`",
        )


@rule(OBJECT, "LocalQueue")
def a_local_queue_has_a_cluster_queue(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/cache: an inactive LocalQueue admits nothing."""
    name = target.spec.get("clusterQueue")
    if not target.context.has("ClusterQueue", name):
        yield ("spec", "clusterQueue"), f"no ClusterQueue {name!r} (there are: {target.context.names('ClusterQueue')})"


@rule(OBJECT, "ClusterQueue", "Cohort")
def flavors_of_queues_exist(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/cache/scheduler: FlavorNotFound makes a queue inactive."""
    for group, resources in enumerate(target.spec.get("resourceGroups") or []):
        for index, flavor in enumerate(resources["flavors"]):
            if not target.context.has("ResourceFlavor", flavor["name"]):
                where = ("spec", "resourceGroups", group, "flavors", index, "name")
                yield where, f"no ResourceFlavor {flavor['name']!r} (there are: {target.context.names('ResourceFlavor')})"


@rule(OBJECT, "ResourceFlavor")
def topologies_of_flavors_exist(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/cache/scheduler: TopologyNotFound makes a queue inactive."""
    name = target.spec.get("topologyName")
    if name and not target.context.has("Topology", name):
        yield ("spec", "topologyName"), f"no Topology {name!r} (there are: {target.context.names('Topology')})"


@rule(POD)
def a_pod_asks_for_one_topology(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/controller/jobframework/tas_validation.go: one kind of topology request."""
    notes = (target.value.get("metadata") or {}).get("annotations") or {}
    if all(key in notes for key in TOPOLOGY):
        yield ("metadata", "annotations"), "required and preferred topology exclude each other"


@rule(POD)
def some_flavor_takes_every_pod(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/scheduler/flavorassigner: resources outside the queue's groups are never admitted.

    Its queue has a flavor whose nodes the Pod selects, whose taints it tolerates, and that covers what it asks for.
    """
    queue = _cluster_queue(target)
    if queue is None or target.pod is None or target.pod.role == "cleanup":
        return
    wanted = requests(target.pod)
    if uncovered := sorted(set(wanted) - _covered(queue) - {"ephemeral-storage"}):
        yield ("spec",), f"ClusterQueue {queue['metadata']['name']} covers no {', '.join(uncovered)}"
    elif not list(_fitting(target, queue)):
        flavors = ", ".join(sorted({flavor["name"] for _, flavor in _flavors(queue)}))
        yield ("spec",), f"no flavor of ClusterQueue {queue['metadata']['name']} ({flavors}) takes these Pods"


@rule(OBJECT, *RAY_KINDS)
def a_gang_fits_its_queue(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/scheduler/flavorassigner: a gang that never fits waits for ever."""
    queue = _cluster_queue(target)
    if queue is None:
        return
    own = [pod for pod in target.context.pods if pod.source_object is target.object and pod.role != "cleanup"]
    quota, name = _quota(target, queue), queue["metadata"]["name"]
    for resource in ("cpu", "memory", "nvidia.com/gpu"):
        wanted = sum((requests(pod).get(resource, Fraction(0)) * _least(pod) for pod in own), Fraction(0))
        most = sum((amount for (_, one), amount in quota.items() if one == resource), Fraction(0))
        if resource in _covered(queue) and wanted > most:
            text = f"asks for {float(wanted):g} {resource}, ClusterQueue {name} can have at most"
            yield ("spec",), f"{text} {float(most):g}"
            return
    for pod in own:
        if flavors := _too_small(target, pod, queue, quota):
            text = f"no flavor of ClusterQueue {name} that takes them ({', '.join(flavors)}) has room for"
            yield pod.path, f"{text} all {_least(pod)} of these Pods: Kueue takes one flavor for all of a group"


def _too_small(
    target: RuleTarget, pod: ExpandedPod, queue: KubeObject, quota: dict[tuple[str, str], Fraction]
) -> list[str]:
    """The flavors that take these Pods, where none has quota for all that must start together; else []."""
    wanted = {name: amount * _least(pod) for name, amount in requests(pod).items()}
    for group in queue["spec"].get("resourceGroups") or []:
        names = [flavor["name"] for flavor in group["flavors"] if _takes(target, pod.spec, flavor)]
        asked = [name for name in group["coveredResources"] if wanted.get(name)]
        if names and not any(all(wanted[one] <= quota.get((name, one), 0) for one in asked) for name in names):
            return names
    return []


def requests(pod: ExpandedPod) -> dict[str, Fraction]:
    """What one Pod asks for: the sum of its containers, or its largest init container where that is more."""
    total: dict[str, Fraction] = {}
    for container in pod.spec.get("containers") or []:
        for name, value in _requests(container).items():
            total[name] = total.get(name, Fraction(0)) + value
    for container in pod.spec.get("initContainers") or []:
        for name, value in _requests(container).items():
            total[name] = max(total.get(name, Fraction(0)), value)
    return total


def _requests(container: KubeObject) -> dict[str, Fraction]:
    resources = container.get("resources") or {}
    both = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: number for name, value in both.items() if (number := quantity(value)) is not None}


def _least(pod: ExpandedPod) -> int:
    """How many of these Pods must start together."""
    group = pod.group
    if pod.role != "worker":
        return pod.count
    return int(group.get("replicas") or group.get("minReplicas") or 0) * int(group.get("numOfHosts") or 1)


def _queued(target: RuleTarget) -> bool:
    return QUEUE in target.labels


def _cluster_queue(target: RuleTarget) -> KubeObject | None:
    local = target.context.by_kind.get("LocalQueue", {}).get(target.labels.get(QUEUE, ""))
    name = ((local or {}).get("spec") or {}).get("clusterQueue", "")
    return target.context.by_kind.get("ClusterQueue", {}).get(name)


def _flavors(queue: KubeObject) -> Iterator[tuple[KubeObject, KubeObject]]:
    for group in queue["spec"].get("resourceGroups") or []:
        for flavor in group["flavors"]:
            yield group, flavor


def _covered(queue: KubeObject) -> set[str]:
    return {name for group in queue["spec"].get("resourceGroups") or [] for name in group["coveredResources"]}


def _fitting(target: RuleTarget, queue: KubeObject) -> Iterator[str]:
    """Names of the flavors whose nodes the Pod selects and tolerates."""
    for _, flavor in _flavors(queue):
        if _takes(target, target.value.get("spec") or {}, flavor):
            yield flavor["name"]


def _takes(target: RuleTarget, spec: KubeObject, flavor: KubeObject) -> bool:
    found = target.context.by_kind.get("ResourceFlavor", {}).get(flavor["name"])
    return found is not None and fits(spec, found.get("spec") or {})


def fits(spec: KubeObject, flavor: KubeObject) -> bool:
    """Whether a Pod spec may run on the nodes of a flavor, which adds its own tolerations."""
    labels, selector = flavor.get("nodeLabels") or {}, spec.get("nodeSelector") or {}
    tolerations = [*(spec.get("tolerations") or []), *(flavor.get("tolerations") or [])]
    clash = any(labels.get(key, value) != value for key, value in selector.items())
    return not clash and all(
        any(tolerates(one, taint) for one in tolerations) for taint in flavor.get("nodeTaints") or []
    )


def tolerates(toleration: KubeObject, taint: KubeObject) -> bool:
    """Whether one toleration is for one taint (Kubernetes core v1 `ToleratesTaint`)."""
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    if toleration.get("key") not in (None, "", taint["key"]):
        return False
    return toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", "")


def _quota(target: RuleTarget, queue: KubeObject) -> dict[tuple[str, str], Fraction]:
    """The most of each flavor and resource that a queue can have: its own and what it may borrow from its cohort."""
    cohort = queue["spec"].get("cohortName")
    others = [one for one in target.context.of_kinds("ClusterQueue") if cohort and one["spec"].get("cohortName") == cohort]
    found: dict[tuple[str, str], Fraction] = {}
    for _, flavor in _flavors(queue):
        for item in flavor["resources"]:
            own = quantity(item["nominalQuota"]) or Fraction(0)
            lent = sum(
                (_lent(other, flavor["name"], item["name"]) for other in others if other is not queue), Fraction(0)
            )
            limit = quantity(item.get("borrowingLimit"))
            found[flavor["name"], item["name"]] = own + (lent if limit is None else min(lent, limit))
    return found


def _lent(queue: KubeObject, flavor: str, resource: str) -> Fraction:
    for _, one in _flavors(queue):
        for item in one["resources"]:
            if one["name"] == flavor and item["name"] == resource:
                limit = quantity(item.get("lendingLimit"))
                own = quantity(item["nominalQuota"]) or Fraction(0)
                return own if limit is None else min(own, limit)
    return Fraction(0)
