"""The queues' arithmetic: every job fits its queue, every Pod has one flavor, every flavor has nodes."""

import copy
import functools
from collections import Counter, defaultdict
from fractions import Fraction

import pytest
import yaml

from emoji_ldm.kubernetes.lint.pods import pods, ray_cluster
from emoji_ldm.kubernetes.lint.quantities import quantity
from emoji_ldm.kubernetes.lint.rendering import name_of, render
from tests.manifests.render import K8S, ROOT

OVERLAYS = ("kind", "kind-minio", "eks")
FLAVORS = ("cpu", "browser", "gpu-on-demand", "gpu-spot")
RESOURCES = ("cpu", "memory", "nvidia.com/gpu")
QUEUE, PRIORITY, ELASTIC = (f"kueue.x-k8s.io/{word}" for word in ("queue-name", "priority-class", "elastic-job"))


@functools.cache
def rendered(overlay):
    """The objects of an overlay, not to be changed."""
    return render(K8S, overlay)


def of_kind(overlay, *kinds):
    return {obj["metadata"]["name"]: obj for obj in rendered(overlay) if obj["kind"] in kinds}


def queue_of(overlay, obj):
    """The ClusterQueue that takes an object; jobs of a RayCronJob bear no label and go to `default`."""
    label = "default" if obj["kind"] == "RayCronJob" else obj["metadata"]["labels"][QUEUE]
    return of_kind(overlay, "LocalQueue")[label]["spec"]["clusterQueue"]


def queued(overlay):
    """The objects that Kueue admits; the service it must leave alone, see components/queues/queues.yaml."""
    return [obj for obj in rendered(overlay) if obj["kind"] in ("RayJob", "RayCronJob")]


def first_pods(obj):
    """(Pod, how many) that must be admitted together before anything runs: head, submitter, smallest worker groups."""
    for pod in pods([obj]):
        if pod.role in ("head", "submitter"):
            yield pod, 1
        elif pod.role == "worker":
            yield pod, pod.group["replicas"]


def requests_of(pod):
    """What Kueue counts of a Pod: all that runs at once (the autoscaler and native sidecars too), or a larger start."""
    total, largest = Counter(), Counter()
    for container in pod.containers:
        once = container in pod.spec.get("initContainers", []) and container.get("restartPolicy") != "Always"
        for name, value in container["resources"]["requests"].items():
            if once:
                largest[name] = max(largest[name], quantity(value))
            else:
                total[name] += quantity(value)
    return {name: max(total[name], largest[name]) for name in {*total, *largest} & set(RESOURCES)}


def flavor_of(overlay, pod):
    """The one flavor whose labels a Pod's nodeSelector asks for and whose taints it tolerates."""
    tolerated = {item["key"] for item in pod.spec.get("tolerations", [])}
    found = []
    for name, flavor in of_kind(overlay, "ResourceFlavor").items():
        labels, taints = flavor["spec"]["nodeLabels"], {item["key"] for item in flavor["spec"].get("nodeTaints", [])}
        if labels.items() <= pod.spec.get("nodeSelector", {}).items() and taints <= tolerated:
            found.append(name)
    (name,) = found
    return name


@functools.cache
def quotas(overlay):
    """{queue: {(flavor, resource): (nominal, borrowing limit or None, lending limit or None)}}"""
    found = defaultdict(dict)
    for name, queue in of_kind(overlay, "ClusterQueue").items():
        for group in queue["spec"]["resourceGroups"]:
            for flavor in group["flavors"]:
                for item in flavor["resources"]:
                    limits = [
                        quantity(item[key]) if key in item else None for key in ("borrowingLimit", "lendingLimit")
                    ]
                    found[name][flavor["name"], item["name"]] = (quantity(item["nominalQuota"]), *limits)
    return found


def within_reach(overlay, queue):
    """{(flavor, resource): what a queue may use at most: its own, and what the others of its cohort lend}"""
    everything, most = quotas(overlay), {}
    for key, (own, may_borrow, _) in everything[queue].items():
        others = (quota[key] for name, quota in everything.items() if name != queue)
        lent = sum((nominal if lends is None else lends for nominal, _, lends in others), Fraction(0))
        most[key] = own + (lent if may_borrow is None else min(lent, may_borrow))
    return most


def demand(overlay, obj):
    """{(flavor, resource): sum} of what is admitted together first."""
    total = Counter()
    for pod, count in first_pods(obj):
        for name, amount in requests_of(pod).items():
            total[flavor_of(overlay, pod), name] += amount * count
    return total


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_job_fits_the_own_quota_of_its_queue_with_sidecar_and_submitter(overlay):
    """Not by borrowing: what is lent today may not be tomorrow, and then a gang would wait for ever."""
    for obj in queued(overlay):
        own = quotas(overlay)[queue_of(overlay, obj)]
        for key, amount in demand(overlay, obj).items():
            assert amount <= own[key][0], f"{name_of(obj)} needs {float(amount):g} of {key}, has {float(own[key][0]):g}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_service_fits_its_reserved_quota(overlay):
    kept, service = quotas(overlay)["serve"], of_kind(overlay, "RayService")["serve"]
    for key, amount in demand(overlay, service).items():
        nominal, _, lent = kept[key]
        assert amount <= nominal - (nominal if lent is None else lent), f"{float(amount):g} of {key}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kueue_neither_queues_the_service_nor_takes_its_clusters_into_the_default_queue(overlay):
    """Kueue 0.19 stops a service that is not ready and does not count an upgrade's second cluster (kueue#11264)."""
    config = yaml.safe_load((ROOT / "infra/helm/kueue.yaml").read_text())["managerConfig"]
    integrations = yaml.safe_load(config["controllerManagerConfigYaml"])["integrations"]
    assert "ray.io/rayservice" not in integrations["frameworks"]
    assert "RayService.v1.ray.io" in integrations["externalFrameworks"]
    service = of_kind(overlay, "RayService")["serve"]["metadata"]
    assert not any("kueue" in key for key in {**service["labels"], **service.get("annotations", {})})


def test_the_sidecar_and_the_submitter_are_counted():
    things = {name_of(obj): obj for obj in queued("kind")}
    roles = [pod.role for pod, _ in first_pods(things["RayJob/pipeline"])]
    assert sorted(set(roles)) == ["head", "submitter", "worker"]
    head, submitter = (next(requests_of(p) for p, _ in first_pods(things["RayJob/pipeline"]) if p.role == role)
                       for role in ("head", "submitter"))  # fmt: skip
    assert (head["cpu"], submitter["cpu"]) >= (Fraction(3, 2), Fraction(1, 2)), "Ray's 1 CPU and the autoscaler's half"
    assert demand("kind", things["RayJob/pipeline"])["cpu", "cpu"] == head["cpu"] + submitter["cpu"]


def test_a_job_that_is_too_large_would_be_noticed():
    (train,) = [copy.deepcopy(obj) for obj in queued("kind") if name_of(obj) == "RayJob/train"]
    ray_cluster(train)["workerGroupSpecs"][0]["replicas"] = 99
    assert demand("kind", train)["gpu-on-demand", "nvidia.com/gpu"] == 99 > quotas("kind")["train"][
        "gpu-on-demand", "nvidia.com/gpu"][0]  # fmt: skip


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_elastic_groups_may_borrow_at_least_half_of_their_most(overlay):
    """A group that can never grow to what its file says says nothing."""
    for obj in queued(overlay):
        most, use = within_reach(overlay, queue_of(overlay, obj)), Counter()
        for pod in pods([obj]):
            if pod.role == "worker":
                for name, amount in requests_of(pod).items():
                    use[flavor_of(overlay, pod), name] += amount * pod.count
        for key, amount in use.items():
            assert amount <= 2 * most[key], f"{name_of(obj)} may grow to {float(amount):g} of {key}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_queue_counts_every_resource_of_every_flavor(overlay):
    for queue, quota in quotas(overlay).items():
        assert set(quota) == {(flavor, name) for flavor in FLAVORS for name in RESOURCES}, queue


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_queued_pods_request_only_resources_that_their_queue_covers(overlay):
    """A resource outside all quotas keeps a job out for ever, unless the operator is told to leave it out."""
    config = yaml.safe_load((ROOT / "infra/helm/kueue.yaml").read_text())["managerConfig"]
    left_out = yaml.safe_load(config["controllerManagerConfigYaml"])["resources"]["excludeResourcePrefixes"]
    for obj in queued(overlay):
        for pod, _ in first_pods(obj):
            asked = {name for container in pod.containers for name in container["resources"]["requests"]}
            assert {name for name in asked if not name.startswith(tuple(left_out))} <= set(RESOURCES), name_of(obj)


def test_flavors_are_the_pools_of_kind_and_of_karpenter():
    flavors = {name: (flavor["spec"]["nodeLabels"], taints(flavor["spec"].get("nodeTaints")))
               for name, flavor in of_kind("eks", "ResourceFlavor").items()}  # fmt: skip
    assert set(flavors) == set(FLAVORS)
    kind = yaml.safe_load((ROOT / "infra/kind/kind.yaml").read_text())["nodes"]
    nodes = [(node["labels"], taints(kubeadm_taints(node))) for node in kind if "labels" in node]
    pools = of_kind("eks", "NodePool")
    for name, (labels, expected) in flavors.items():
        assert any(labels.items() <= have.items() and got == expected for have, got in nodes), f"no kind node is {name}"
        template = pools[name]["spec"]["template"]
        assert labels.items() <= template["metadata"]["labels"].items()
        assert taints(template["spec"].get("taints")) == expected, name


def taints(listed):
    return {(taint["key"], taint.get("value", ""), taint["effect"]) for taint in listed or []}


def kubeadm_taints(node):
    for patch in node.get("kubeadmConfigPatches", []):
        yield from yaml.safe_load(patch)["nodeRegistration"]["taints"]


def test_the_quotas_of_eks_are_no_more_than_karpenter_may_make():
    pools, total = of_kind("eks", "NodePool"), Counter()
    for quota in quotas("eks").values():
        for key, (nominal, _, _) in quota.items():
            total[key] += nominal
    for (flavor, name), amount in total.items():
        limit = pools[flavor]["spec"]["limits"].get(name)
        assert limit is None or amount <= quantity(limit), f"{float(amount):g} of {name} on {flavor}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_priorities_in_the_queue_and_among_pods_have_the_same_order(overlay):
    orders = [sorted(found, key=lambda name: -found[name]["value"])
              for kind in ("PriorityClass", "WorkloadPriorityClass") if (found := of_kind(overlay, kind))]  # fmt: skip
    assert orders == [["emoji-platform", "emoji-serve", "emoji-train", "emoji-batch"],
                      ["emoji-serve", "emoji-train", "emoji-batch"]]  # fmt: skip
    for obj in queued(overlay):
        named = obj["metadata"].get("labels", {}).get(PRIORITY, "emoji-batch")
        assert {pod.spec["priorityClassName"] for pod, _ in first_pods(obj)} == {named}, name_of(obj)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_work_evicts_what_it_stands_on(overlay):
    """Operators, DNS and the Pods of others have the default priority, 0; the store and Redis are above it."""
    classes = of_kind(overlay, "PriorityClass")
    default = 0
    assert classes["emoji-batch"]["preemptionPolicy"] == "Never"
    for pod in pods(rendered(overlay)):
        value = classes[pod.spec["priorityClassName"]]["value"] if "priorityClassName" in pod.spec else default
        assert value > default if pod.owner.startswith("StatefulSet/") else value <= default, pod.owner
        assert value >= -10, "the cluster autoscaler adds no nodes for Pods of a lower priority"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_autoscaled_work_is_elastic_and_the_nightly_job_which_cannot_say_so_is_not_autoscaled(overlay):
    for obj in queued(overlay):
        elastic = obj["metadata"].get("annotations", {}).get(ELASTIC) == "true"
        assert elastic == ray_cluster(obj)["enableInTreeAutoscaling"], name_of(obj)
        assert not (elastic and obj["kind"] == "RayCronJob")


def test_without_kueue_nothing_names_a_queue():
    for obj in queued("dev"):
        assert not any("kueue" in key for key in obj["metadata"].get("labels", {}))
