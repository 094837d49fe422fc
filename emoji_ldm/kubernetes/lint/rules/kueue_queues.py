"""Rules of Kueue for the jobs and clusters that it queues, and whether their queues can ever admit them.

Kueue admits all Pods of a workload together or none of them (gang admission), and assigns each group of identical Pods
one flavor. A workload that requests more than its queue can ever have waits forever without an error, so the check
redoes that arithmetic: requests of all Pods that must start together against nominal plus borrowable quota.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from emoji_ldm.kubernetes.lint.pods import ExpandedPod
from emoji_ldm.kubernetes.lint.quantities import quantity
from emoji_ldm.kubernetes.lint.rendering import KubeObject
from emoji_ldm.kubernetes.lint.rules.rule import CLUSTER, JOB, OBJECT, POD, RuleTarget, Violations, autoscaled, rule
from emoji_ldm.kubernetes.lint.selectors import fits_flavor

QUEUE, PRIORITY = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"
# With this annotation a change of size creates a new Workload that replaces the old one, instead of suspending the job
# to queue it anew (KEP-77, dynamically sized jobs).
ELASTIC = "kueue.x-k8s.io/elastic-job"
MAX_WORKER_GROUPS = 17  # a Workload has at most 18 Pod sets, of which one is the head
RAY_KINDS = ("RayCluster", "RayJob", "RayService")
TOPOLOGY = ("kueue.x-k8s.io/podset-required-topology", "kueue.x-k8s.io/podset-preferred-topology")


@rule(JOB, "RayJob")
def a_queued_job_gives_its_cluster_back(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/controller/jobs/rayjob/rayjob_webhook.go validateCreate."""
    # Kueue frees the quota once the job has ended, so a cluster that stayed would run on quota that others are
    # promised.
    if _queued(target) and not target.value.get("shutdownAfterJobFinishes"):
        yield ("shutdownAfterJobFinishes",), "a queued job must set shutdownAfterJobFinishes"


@rule(JOB, "RayJob")
def a_queued_job_brings_its_cluster(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/controller/jobs/rayjob/rayjob_webhook.go validateCreate."""
    # The Pods of a standing cluster exist already: Kueue has nothing to hold back, and would count nothing.
    if _queued(target) and target.value.get("clusterSelector"):
        yield ("clusterSelector",), "Kueue does not queue a job with clusterSelector"


@rule(CLUSTER, *RAY_KINDS)
def a_queued_autoscaler_is_elastic(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/controller/jobs/raycluster/raycluster_webhook.go ValidateCreate."""
    # Otherwise the autoscaler adds Pods that Kueue has not counted.
    if _queued(target) and autoscaled(target.value) and target.annotations.get(ELASTIC) != "true":
        yield ("enableInTreeAutoscaling",), f'autoscaling in a queue needs the annotation {ELASTIC}: "true"'


@rule(CLUSTER, *RAY_KINDS)
def a_queued_cluster_has_few_groups(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/controller/jobs/raycluster/raycluster_webhook.go, jobframework.MaxPodSets."""
    if _queued(target) and len(target.value.get("workerGroupSpecs") or []) > MAX_WORKER_GROUPS:
        yield ("workerGroupSpecs",), f"Kueue takes at most {MAX_WORKER_GROUPS} worker groups"


@rule(CLUSTER, *RAY_KINDS, "RayCronJob")
def no_group_is_called_head(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/controller/jobs/raycluster/raycluster_webhook.go headGroupPodSetName."""
    for index, group in enumerate(target.value.get("workerGroupSpecs") or []):
        if group["groupName"] == "head":
            yield ("workerGroupSpecs", index, "groupName"), "Kueue reserves the name head for the head group"


@rule(OBJECT)
def queues_of_jobs_exist(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/controller/core: a workload of an unknown queue waits forever."""
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
    """Project policy: jobs without a queue would use resources that the queues assigned to others."""
    # A RayService is treated differently on purpose: see `a_service_stands_in_no_queue`.
    if target.context.uses_kueue and QUEUE not in target.labels:
        yield ("metadata",), f"the label {QUEUE} is missing: Kueue would not count this {target.kind}"


@rule(OBJECT, "RayService")
def a_service_stands_in_no_queue(target: RuleTarget) -> Violations:
    """Kueue 0.19 rayservice_controller.go PodsReady: not ready is evicted; kueue#11264: upgrades uncounted."""
    if QUEUE in target.labels:
        yield ("metadata", "labels", QUEUE), "Kueue would stop the service whenever it is not ready for a few minutes"


@rule(OBJECT, "RayCronJob")
def jobs_of_a_cron_job_find_the_default_queue(target: RuleTarget) -> Violations:
    """KubeRay 1.7 raycronjob_controller.go: the jobs it makes get no labels."""
    if target.context.uses_kueue and not target.context.has("LocalQueue", "default"):
        yield (
            ("metadata", "name"),
            "jobs of a RayCronJob carry no labels: without a LocalQueue `default` they bypass Kueue",
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
                yield (
                    where,
                    f"no ResourceFlavor {flavor['name']!r} (there are: {target.context.names('ResourceFlavor')})",
                )


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
        yield ("metadata", "annotations"), "required and preferred topology are mutually exclusive"


@rule(POD)
def some_flavor_takes_every_pod(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/scheduler/flavorassigner: resources outside the queue's groups are never admitted.

    The queue must have a flavor whose nodes the Pod selects, whose taints it tolerates, and that covers its requests.
    """
    # The Job that empties Redis is not part of the RayCluster's Workload, so Kueue never assigns it a flavor.
    queue = _cluster_queue(target)
    if queue is None or target.pod is None or target.pod.role == "cleanup":
        return
    # Kueue does not count ephemeral storage unless a queue covers it.
    if uncovered := sorted(set(requests(target.pod)) - _covered(queue) - {"ephemeral-storage"}):
        yield ("spec",), f"ClusterQueue {queue['metadata']['name']} does not cover {', '.join(uncovered)}"
    elif not list(_accepting_flavors(target, queue)):
        flavors = ", ".join(sorted({flavor["name"] for _, flavor in _flavors(queue)}))
        yield ("spec",), f"no flavor of ClusterQueue {queue['metadata']['name']} ({flavors}) accepts these Pods"


@rule(OBJECT, *RAY_KINDS)
def a_gang_fits_its_queue(target: RuleTarget) -> Violations:
    """Kueue 0.19 pkg/scheduler/flavorassigner: a gang that never fits waits forever."""
    # The sum over all flavors is tested first, because a gang that is too large in total has one cause and should have
    # one finding. Only then is each group tested against single flavors, as Kueue does not split a group over flavors.
    queue = _cluster_queue(target)
    if queue is None:
        return
    own = [pod for pod in target.context.pods if pod.source_object is target.object and pod.role != "cleanup"]
    quota, name = _quota(target, queue), queue["metadata"]["name"]
    for resource in ("cpu", "memory", "nvidia.com/gpu"):
        requested = sum((requests(pod).get(resource, Fraction(0)) * _gang_size(pod) for pod in own), Fraction(0))
        maximum = sum((amount for (_, one), amount in quota.items() if one == resource), Fraction(0))
        if resource in _covered(queue) and requested > maximum:
            text = f"requests {float(requested):g} {resource}, but ClusterQueue {name} can have at most"
            yield ("spec",), f"{text} {float(maximum):g}"
            return
    for pod in own:
        if flavors := _too_small(target, pod, queue, quota):
            text = f"no flavor of ClusterQueue {name} that accepts them ({', '.join(flavors)}) has quota for"
            yield pod.path, f"{text} all {_gang_size(pod)} of these Pods: Kueue assigns one flavor to a whole group"


def _too_small(
    target: RuleTarget, pod: ExpandedPod, queue: KubeObject, quota: dict[tuple[str, str], Fraction]
) -> list[str]:
    """The flavors that accept these Pods, if none has quota for all that must start together; otherwise []."""
    requested = {name: amount * _gang_size(pod) for name, amount in requests(pod).items()}
    for group in queue["spec"].get("resourceGroups") or []:
        names = [flavor["name"] for flavor in group["flavors"] if _accepts(target, pod.spec, flavor)]
        asked = [name for name in group["coveredResources"] if requested.get(name)]
        if names and not any(all(requested[one] <= quota.get((name, one), 0) for one in asked) for name in names):
            return names
    return []


def requests(pod: ExpandedPod) -> dict[str, Fraction]:
    """What one Pod requests: the sum over its containers, or its largest init container where that is more."""
    # Init containers run one after the other before the rest, so only the largest of them counts, and only if it needs
    # more than all others together. This is Kubernetes' own formula for the requests of a Pod.
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
    # The API server copies a limit without a request into the request.
    both = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: number for name, value in both.items() if (number := quantity(value)) is not None}


def _gang_size(pod: ExpandedPod) -> int:
    """How many of these Pods must start together."""
    # Workers above the minimum are not part of the gang: an elastic job starts without them and asks for their quota
    # later.
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


def _accepting_flavors(target: RuleTarget, queue: KubeObject) -> Iterator[str]:
    """Names of the flavors on whose nodes the Pod may run."""
    for _, flavor in _flavors(queue):
        if _accepts(target, target.value.get("spec") or {}, flavor):
            yield flavor["name"]


def _accepts(target: RuleTarget, spec: KubeObject, flavor: KubeObject) -> bool:
    found = target.context.by_kind.get("ResourceFlavor", {}).get(flavor["name"])
    return found is not None and fits_flavor(spec, found.get("spec") or {})


def _quota(target: RuleTarget, queue: KubeObject) -> dict[tuple[str, str], Fraction]:
    """The most of each (flavor, resource) that a queue can have: its own quota and what it may borrow."""
    cohort = queue["spec"].get("cohortName")
    queues = target.context.of_kinds("ClusterQueue") if cohort else []
    # Only queues of the overlay are known here; a Cohort with a quota of its own or with a parent is not considered.
    others = [one for one in queues if one["spec"].get("cohortName") == cohort and one is not queue]
    found: dict[tuple[str, str], Fraction] = {}
    for _, flavor in _flavors(queue):
        for item in flavor["resources"]:
            own = quantity(item["nominalQuota"]) or Fraction(0)
            lent = sum((_lent(other, flavor["name"], item["name"]) for other in others), Fraction(0))
            limit = quantity(item.get("borrowingLimit"))
            found[flavor["name"], item["name"]] = own + (lent if limit is None else min(lent, limit))
    return found


def _lent(queue: KubeObject, flavor: str, resource: str) -> Fraction:
    """What a queue lends to its cohort: its nominal quota, up to its lending limit."""
    for _, one in _flavors(queue):
        for item in one["resources"]:
            if one["name"] == flavor and item["name"] == resource:
                limit = quantity(item.get("lendingLimit"))
                own = quantity(item["nominalQuota"]) or Fraction(0)
                return own if limit is None else min(own, limit)
    return Fraction(0)
