"""The admission policies: each refuses violations, accepts the rest, and refuses no object of this project."""

import copy

import pytest
import yaml

from emoji_ldm.kubernetes.lint.admission import POLICY, as_object, enforced_policies, refusal_messages, refusals
from emoji_ldm.kubernetes.lint.rendering import name_of
from tests.manifests.cached_overlays import all_pods, cached_objects
from tests.manifests.good import good_context
from tests.manifests.render import K8S, OVERLAYS

FOLDER = K8S / "components" / "admission"
THINGS = [obj for path in sorted(FOLDER.glob("*.yaml")) for obj in yaml.safe_load_all(path.read_text())]
POLICIES = {obj["metadata"]["name"]: obj for obj in enforced_policies(THINGS)}
STRICT = {"metadata": {"name": "emoji-ldm", "labels": {"kubernetes.io/metadata.name": "emoji-ldm"}}}
LOCAL = {"metadata": {"name": "emoji-ldm", "labels": {"emoji-ldm/local-images": "true"}}}
DIGEST = f"redis:7@sha256:{'0' * 64}"
LIMITS = {"limits": {"cpu": "1", "memory": "1Gi"}}
GUARDED = [name for name in OVERLAYS if any(obj["kind"] == POLICY for obj in cached_objects(name))]


def pod(**changed):
    container = {"name": "one", "image": DIGEST, "resources": LIMITS, **changed.pop("container", {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x"},
        "spec": {"containers": [container], **changed},
    }


def ray(kind="RayCluster", cluster=None, **metadata):
    inner = {"authOptions": {"mode": "token", "secretName": "emoji-ldm-token"}, "headGroupSpec": {}, **(cluster or {})}
    spec = {"RayCluster": inner, "RayJob": {"rayClusterSpec": inner}, "RayService": {"rayClusterConfig": inner},
            "RayCronJob": {"jobTemplate": {"rayClusterSpec": inner}}}[kind]  # fmt: skip
    labels = {"kueue.x-k8s.io/queue-name": "batch"}
    return {
        "apiVersion": "ray.io/v1",
        "kind": kind,
        "metadata": {"name": "x", "labels": labels, **metadata},
        "spec": spec,
    }


def said(obj, namespace=STRICT):
    return [text for policy in POLICIES.values() for text in refusal_messages(policy, obj, namespace)]


def workload(kind, container=None, **changed):
    """An object of a built-in kind with the Pod that `pod` makes."""
    template = {"spec": pod(**({"container": container} if container else {}), **changed)["spec"]}
    group = "batch/v1" if kind in ("Job", "CronJob") else "v1" if kind == "PodTemplate" else "apps/v1"
    spec = {"jobTemplate": {"spec": {"template": template}}} if kind == "CronJob" else {"template": template}
    body = {"template": template} if kind == "PodTemplate" else {"spec": spec}
    return {"apiVersion": group, "kind": kind, "metadata": {"name": "x"}, **body}


WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob", "PodTemplate")
GPU = {"resources": {"limits": {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": "1"}}}
OWNER = [{"kind": "RayJob", "name": "train"}]


@pytest.mark.parametrize("obj", [
    pod(), pod(initContainers=[{"name": "two", "image": DIGEST, "resources": LIMITS}]),
    pod(volumes=[{"name": "tmp", "emptyDir": {}}]), pod(hostNetwork=False),
    pod(container={"ports": [{"containerPort": 1, "hostPort": 0}]}),
    pod(container={"securityContext": {"privileged": False}}), pod(container={"securityContext": {}}),
    pod(container=GPU, tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]),
    pod(container=GPU, tolerations=[{"operator": "Exists"}]),
    *(ray(kind) for kind in ("RayCluster", "RayJob", "RayService", "RayCronJob")),
    ray("RayCronJob", labels={}), ray("RayService", labels={}), ray("RayCluster", labels={}, ownerReferences=OWNER),
    ray("RayCluster", {"headGroupSpec": {"serviceType": "ClusterIP", "enableIngress": False}}),
    {**ray("RayJob"), "spec": {"clusterSelector": {"ray.io/cluster": "x"}}},
    {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {}},
    *(workload(kind) for kind in WORKLOADS),
], ids=str)  # fmt: skip
def test_objects_that_obey_the_policies_pass(obj):
    assert said(obj) == []


@pytest.mark.parametrize("obj, word", [
    (pod(container={"image": "redis:7"}), "image redis:7 has no digest"),
    (pod(container={"image": "redis@sha256:123"}), "has no digest"),
    (pod(container={"image": "emoji-ldm-cpu:0.1.0"}), "emoji-ldm-cpu:0.1.0 has no digest"),
    (pod(initContainers=[{"name": "two", "image": "redis", "resources": LIMITS}]), "image redis has no digest"),
    (pod(ephemeralContainers=[{"name": "two", "image": "busybox"}]), "image busybox has no digest"),
    (pod(hostNetwork=True), "of its node"), (pod(hostPID=True), "of its node"), (pod(hostIPC=True), "of its node"),
    (pod(volumes=[{"name": "x", "hostPath": {"path": "/"}}]), "hostPath"),
    (pod(container={"ports": [{"containerPort": 1, "hostPort": 80}]}), "hostPort"),
    (pod(container={"securityContext": {"privileged": True}}), "privileged"),
    (pod(container={"resources": {"limits": {"cpu": "1"}}}), "container one has no limits"),
    (pod(container={"resources": {"requests": {"cpu": "1"}}}), "container one has no limits"),
    (pod(container={"resources": {}}), "container one has no limits"),
    (pod(initContainers=[{"name": "two", "image": DIGEST}]), "container two has no limits"),
    (pod(container=GPU), "does not tolerate"),
    (pod(container=GPU, tolerations=[{"key": "emoji-ldm/spot", "operator": "Exists"}]), "does not tolerate"),
    *((workload(kind, {"image": "redis:7"}), "image redis:7 has no digest") for kind in WORKLOADS),
    *((workload(kind, hostNetwork=True), "of its node") for kind in WORKLOADS),
    (ray("RayJob", {"headGroupSpec": {"template": {"spec": pod(container={"image": "redis:7"})["spec"]}}}), "redis:7"),
    (ray("RayService", {"workerGroupSpecs": [{"groupName": "a", "template": {"spec": pod(hostPID=True)["spec"]}}]}),
     "of its node"),
    *((ray(kind, {"authOptions": {"mode": "disabled", "secretName": "x"}}), "mode is not token")
      for kind in ("RayCluster", "RayJob", "RayService", "RayCronJob")),
    (ray("RayJob", {"authOptions": {"secretName": "x"}}), "mode is not token"),
    (ray("RayJob", {"authOptions": {"mode": "token"}}), "secretName is missing"),
    (ray("RayService", {"authOptions": {"mode": "token", "secretName": ""}}), "secretName is missing"),
    (ray("RayCluster", {"headGroupSpec": {"enableIngress": True}}), "Ingress"),
    (ray("RayCluster", {"headGroupSpec": {"serviceType": "LoadBalancer"}}), "reached from outside"),
    *((ray(kind, labels={}), "queue-name is missing") for kind in ("RayCluster", "RayJob")),
    (ray("RayJob", labels={"kueue.x-k8s.io/queue-name": ""}), "queue-name is missing"),
    (ray("RayJob", labels={}, ownerReferences=[{"kind": "RayCronJob", "name": "refresh"}]), "queue-name is missing"),
], ids=str)  # fmt: skip
def test_what_breaks_a_rule_is_refused_with_the_reason(obj, word):
    (text,) = said(obj)
    assert word in text


def test_a_ray_kind_without_any_token_options_is_refused_twice():
    bare = ray()
    del bare["spec"]["authOptions"]
    assert len(said(bare)) == 2


def test_what_is_on_its_way_out_may_go():
    """Or the operator could not take its finalizer off."""
    for bad in (pod(hostNetwork=True, container={"image": "x"}), ray(labels={}, cluster={"authOptions": {}})):
        bad["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        assert said(bad) == []


@pytest.mark.parametrize("image, passes", [
    ("emoji-ldm-gpu:0.1.0", True), ("emoji-ldm-gpu:latest", False), ("emoji-ldm-gpu", False), ("redis:7", False),
    ("elsewhere.example/emoji-ldm-gpu:0.1.0", False), ("emoji-ldm-gpu-evil:0.1.0", False),
])  # fmt: skip
def test_where_images_are_local_our_own_go_by_their_version(image, passes):
    assert (said(pod(container={"image": image}), LOCAL) == []) is passes


def test_every_policy_is_bound_to_our_namespace_and_denies():
    names = {obj["metadata"]["name"] for obj in THINGS if obj["kind"] == POLICY}
    assert names == set(POLICIES) == {"emoji-ldm-images", "emoji-ldm-pods", "emoji-ldm-ray", "emoji-ldm-queues"}
    for binding in (obj["spec"] for obj in THINGS if obj["kind"] == f"{POLICY}Binding"):
        assert "Deny" in binding["validationActions"]
        labels = binding["matchResources"]["namespaceSelector"]["matchLabels"]
        assert labels == {"kubernetes.io/metadata.name": "emoji-ldm"}
    assert all(policy["spec"]["failurePolicy"] == "Fail" for policy in POLICIES.values())


def test_overlays_that_have_policies_have_the_queues_these_ask_for():
    assert {"kind", "kind-minio", "eks"} <= set(GUARDED)
    for overlay in GUARDED:
        assert any(obj["kind"] == "ClusterQueue" for obj in cached_objects(overlay))


@pytest.mark.parametrize("overlay", GUARDED)
def test_nothing_of_ours_is_refused(overlay):
    """Images that only the user knows aside: in overlay eks they are still to be filled in."""
    found = {f"{obj['kind']}/{obj['metadata']['name']}: {text}" for obj, text in refusals(cached_objects(overlay))}
    assert {text for text in found if "FILL-ME-IN" not in text} == set()


@pytest.mark.parametrize("overlay", ["kind", "eks"])
def test_every_pod_of_ours_would_be_refused_if_it_weakened(overlay):
    space = next(obj for obj in cached_objects(overlay) if obj["kind"] == "Namespace")
    for one in all_pods(overlay):
        weak = copy.deepcopy(as_object(one))
        weak["spec"]["containers"][-1]["image"] = "anything:latest"
        weak["spec"]["hostNetwork"] = True
        told = [text for policy in POLICIES.values() for text in refusal_messages(policy, weak, space)]
        assert any("anything:latest" in text or "FILL-ME-IN" in text for text in told), one.object_name
        assert any("of its node" in text for text in told), one.object_name


JOBS = {"apiGroups": ["ray.io"], "apiVersions": ["v1"], "resources": ["rayjobs"], "operations": ["CREATE"]}


def refused_by(expression, rules=JOBS, actions=("Deny",), **said):
    """Who would be refused by one policy, and why."""
    spec = {"matchConstraints": {"resourceRules": [rules]}, "validations": [{"expression": expression, **said}]}
    policy = {"kind": "ValidatingAdmissionPolicy", "metadata": {"name": "mine"}, "spec": spec}
    binding = {"kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "mine"},
               "spec": {"policyName": "mine", "validationActions": list(actions)}}  # fmt: skip
    return {(name_of(obj), text) for obj, text in refusals([*good_context().objects, policy, binding])}


@pytest.mark.parametrize("expression", ["object.spec.(", "object.spec.nope == 3"])
def test_a_policy_that_cannot_be_evaluated_is_named_and_is_no_stack_trace(expression):
    ((owner, text),) = refused_by(expression, message="no")
    assert owner == "ValidatingAdmissionPolicy/mine" and text.startswith("cannot be evaluated") and "\n" not in text


def test_a_policy_without_a_message_reports_its_expression():
    assert refused_by("1 == 2") == {("RayJob/train", "failed expression: 1 == 2")}


@pytest.mark.parametrize("rules", [
    {"apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"], "operations": ["*"]},
    {**JOBS, "resources": ["*/*"]},
])  # fmt: skip
def test_an_asterisk_matches_all_resources(rules):
    assert ("RayJob/train", "no") in refused_by("false", rules, message="no")


def test_names_of_resources_are_those_of_the_api():
    rules = {**JOBS, "apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"]}
    assert ("NetworkPolicy/internet", "no") in refused_by("false", rules, message="no")


def test_policies_that_only_warn_or_match_other_operations_refuse_nothing():
    assert refused_by("false", actions=("Warn", "Audit"), message="no") == set()
    assert refused_by("false", {**JOBS, "operations": ["DELETE"]}, message="no") == set()
