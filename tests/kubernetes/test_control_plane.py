"""On a real API server with the real scheduler and KubeRay: owners of fields, priorities, admission policies."""

import json
import subprocess
import time

import pytest
import yaml

from emoji_ldm.kubernetes import up
from emoji_ldm.kubernetes.kubectl import FieldConflict, Kubectl
from emoji_ldm.kubernetes.lint.rendering import render
from emoji_ldm.kubernetes.overlay import is_submitted
from tests.kubernetes.control_plane import control_plane, program
from tests.manifests.render import K8S
from tests.unit.kubernetes.lint.test_admission import FOLDER, GPU, WORKLOADS, pod, ray, workload

# The first test starts etcd, the API server and the scheduler: half a minute on two free cores.
pytestmark = pytest.mark.slow
TIMEOUT_S = 120


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A control plane with the custom kinds of this project and its namespace."""
    with control_plane(tmp_path_factory.mktemp("plane"), "kube-scheduler") as cluster:
        kinds = [custom_kind(json.loads(path.read_text())) for path in sorted((K8S / "schemas").glob("*.json"))]
        kinds = [kind for kind in kinds if kind["spec"]["group"] in ("ray.io", "kueue.x-k8s.io")]
        cluster.kubectl("apply", "--server-side", "-f", "-", objects=kinds)
        names = [f"crd/{kind['metadata']['name']}" for kind in kinds]
        cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", *names)
        yield cluster


def custom_kind(told):
    """The definition of a custom kind, from its schema in k8s/schemas."""
    version = {"name": told["version"], "served": True, "storage": True, "schema": {"openAPIV3Schema": told["schema"]},
               "subresources": {"status": {}}}  # fmt: skip
    names = {"kind": told["kind"], "plural": told["plural"], "singular": told["kind"].lower()}
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{told['plural']}.{told['group']}",
                         "annotations": {"api-approved.kubernetes.io": "unapproved, a copy for tests"}},
            "spec": {"group": told["group"], "scope": told["scope"], "names": names,
                     "versions": [version]}}  # fmt: skip


def wait_until(find):
    deadline = time.monotonic() + TIMEOUT_S
    while not (found := find()):
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.5)
    return found


@pytest.fixture
def installed(cluster, tmp_path, monkeypatch):
    """Overlay dev, applied as `cluster up` does, while the real KubeRay acts on it; returns (apply, its objects)."""
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    monkeypatch.setenv("PATH", f"{cluster.kubectl_path.parent}:/usr/bin:/bin")
    objects = [obj for obj in render(K8S, "dev") if not is_submitted(obj)]
    kubectl = Kubectl()
    up.apply(kubectl, [obj for obj in objects if obj["kind"] == "Namespace"])
    rest = [obj for obj in objects if obj["kind"] != "Namespace"]
    with (tmp_path / "kuberay.log").open("w") as log:
        operator = subprocess.Popen(
            [program("kuberay-operator"), "--kubeconfig", cluster.kubeconfig, "--enable-leader-election=false",
             "--metrics-addr=127.0.0.1:0", "--health-probe-bind-address=127.0.0.1:0", "--watch-namespace=emoji-ldm",
             "--feature-gates=RayCronJob=true"], stdout=log, stderr=log)  # fmt: skip
        try:
            yield lambda changed=None: up.apply(kubectl, changed or rest), rest
        finally:
            operator.terminate()
            operator.wait(30)


def test_up_may_run_again_after_kuberay_the_autoscaler_and_people_have_written(cluster, installed):
    apply, objects = installed
    apply()
    # KubeRay adds its finalizer to the RayService and creates the Pods of both clusters.
    wait_until(lambda: cluster.get("rayservice", "serve")["metadata"].get("finalizers"))
    wait_until(lambda: len(cluster.get("raycluster")) == 2 and len(cluster.get("pods")) >= 2)
    resize = [{"op": "replace", "path": "/spec/workerGroupSpecs/0/replicas", "value": 2}]
    cluster.kubectl("-n", "emoji-ldm", "patch", "raycluster", "emoji-ldm", "--type=json", "-p", json.dumps(resize))
    cluster.kubectl("-n", "emoji-ldm", "scale", "statefulset", "store", "--replicas=0")
    cluster.kubectl("-n", "emoji-ldm", "patch", "raycronjob", "refresh", "--type=merge", "-p",
                    '{"spec":{"suspend":false}}')  # fmt: skip
    wait_until(lambda: len([one for one in cluster.get("pods")
                            if one["metadata"]["labels"].get("ray.io/cluster") == "emoji-ldm"]) == 3)  # fmt: skip
    kinds = ("rayservice", "raycluster", "raycronjob", "statefulset")
    specs = {kind: [obj["spec"] for obj in cluster.get(kind)] for kind in kinds}
    pods = {one["metadata"]["uid"] for one in cluster.get("pods")}
    for _ in range(2):
        apply()
        assert {kind: [obj["spec"] for obj in cluster.get(kind)] for kind in kinds} == specs
    time.sleep(3)  # long enough for the operator to act on a change, had there been one
    assert {one["metadata"]["uid"] for one in cluster.get("pods")} == pods
    # A change of the manifests arrives, and keeps the number of Pods.
    (ray_cluster,) = (obj for obj in objects if obj["kind"] == "RayCluster")
    ray_cluster["spec"]["workerGroupSpecs"][0]["maxReplicas"] = 5
    apply([ray_cluster])
    (group,) = cluster.get("raycluster", "emoji-ldm")["spec"]["workerGroupSpecs"]
    assert (group["maxReplicas"], group["replicas"]) == (5, 2)


def test_a_conflict_is_one_line_with_the_object_its_field_and_who_changed_it(cluster, installed):
    apply, objects = installed
    (store,) = (obj for obj in objects if obj["kind"] == "ConfigMap" and obj["metadata"]["name"] == "store")
    apply([store])
    cluster.kubectl("-n", "emoji-ldm", "patch", "configmap", "store", "--type=merge", "-p",
                    '{"data":{"AWS_REGION":"eu-north-1"}}')  # fmt: skip
    with pytest.raises(FieldConflict) as told:
        apply([store])
    text = str(told.value)
    assert text.startswith("ConfigMap/store: fields of the manifests were changed by other means: .data.AWS_REGION by ")
    assert "\n" not in text and "error:" not in text and "--force-conflicts" not in text


def test_on_a_full_node_batch_waits_and_evicts_neither_store_nor_operator(cluster):
    cluster.kubectl("apply", "--server-side", "-f", str(K8S / "base/priorities.yaml"))
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "full"}}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "one"}}
    cluster.kubectl("apply", "-f", "-", objects=[space, node])
    size = {"cpu": "8", "memory": "64Gi", "pods": "110"}
    ready = [{"type": "Ready", "status": "True", "reason": "Test", "message": "as a kubelet would write"}]
    status = {"status": {"capacity": size, "allocatable": size, "conditions": ready}}
    cluster.kubectl("patch", "node", "one", "--subresource=status", "--type=merge", "-p", json.dumps(status))
    cluster.kubectl("taint", "node", "one", "node.kubernetes.io/not-ready-", check=False)

    def start(name, cpus, priority=None):
        resources = {"requests": {"cpu": str(cpus)}}
        spec = {"containers": [{"name": "one", "image": "none", "resources": resources}]}
        spec |= {"priorityClassName": priority} if priority else {}
        obj = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        cluster.kubectl("-n", "full", "create", "-f", "-", objects=[obj])

    def found(state):
        return {one["metadata"]["name"] for one in cluster.get("pods", namespace="full") if state(one)}

    def scheduled(one):
        return "nodeName" in one["spec"]

    def evicted(one):
        return "deletionTimestamp" in one["metadata"]

    def refused(one):
        return any(entry.get("reason") == "Unschedulable" for entry in one["status"].get("conditions", ()))

    start("store", 1, "emoji-platform")
    start("operator", 1)
    for number in range(3):
        start(f"batch-{number}", 2, "emoji-batch")
    full = {"store", "operator", "batch-0", "batch-1", "batch-2"}
    wait_until(lambda: found(scheduled) == full)
    start("batch-3", 2, "emoji-batch")
    start("train-0", 7, "emoji-train")  # more than batch can give
    wait_until(lambda: found(refused) == {"batch-3", "train-0"})
    assert found(evicted) == set()
    # Without a kubelet nobody ends an evicted Pod, so this test does.
    for name, priority in (("serve", "emoji-serve"), ("store-1", "emoji-platform")):
        start(name, 2, priority)
        (victim,) = wait_until(lambda: found(evicted))
        assert victim.startswith("batch-")
        cluster.kubectl("-n", "full", "delete", "pod", victim, "--force", "--grace-period=0")
        wait_until(lambda name=name: name in found(scheduled))
    assert {"store", "operator"} < found(scheduled)


def test_the_policies_refuse_every_workload_of_the_namespace_that_breaks_them(cluster):
    # A namespace of its own, so that Pod Security, which the namespace of the project enforces too, refuses nothing.
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "guarded"}}
    policies = [obj for path in sorted(FOLDER.glob("*.yaml")) for obj in yaml.safe_load_all(path.read_text())
                if obj["kind"].startswith("ValidatingAdmissionPolicy")]  # fmt: skip
    for binding in (obj for obj in policies if obj["kind"].endswith("Binding")):
        binding["spec"]["matchResources"]["namespaceSelector"]["matchLabels"] = {
            "kubernetes.io/metadata.name": "guarded"
        }
    cluster.kubectl("apply", "--server-side", "-f", "-", objects=[space, *policies])

    def answer(obj):
        spec = obj.get("spec", obj)
        if obj["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"):
            spec["selector"] = {"matchLabels": {"app": "x"}}
            spec["template"]["metadata"] = {"labels": {"app": "x"}}
        if obj["kind"] == "StatefulSet":
            spec["serviceName"] = "x"
        if obj["kind"] == "CronJob":
            spec["schedule"] = "0 0 * * *"
        for one in (spec.get("jobTemplate", {}).get("spec", {}), spec):
            if obj["kind"] in ("Job", "CronJob") and "template" in one:
                one["template"]["spec"]["restartPolicy"] = "Never"
        return cluster.kubectl("-n", "guarded", "create", "--dry-run=server", "-f", "-", objects=[obj], check=False)

    try:
        # A policy takes effect some seconds after it was created.
        wait_until(
            lambda: answer(pod(hostNetwork=True)).returncode and answer(workload("Job", {"image": "x"})).returncode
        )
        head = {
            "headGroupSpec": {"rayStartParams": {}, "template": {"spec": pod(container={"image": "redis"})["spec"]}}
        }
        for bad, word in (
            *((workload(kind, {"image": "redis:7"}), "image redis:7 has no digest") for kind in WORKLOADS),
            *((workload(kind, hostPID=True), "of its node") for kind in WORKLOADS),
            (pod(container={"image": "redis:7"}), "image redis:7 has no digest"),
            (pod(container=GPU), "does not tolerate"),
            (workload("Job", {"resources": {}}), "container one has no limits"),
            (ray("RayCluster", head), "image redis has no digest"),
        ):
            told = answer(bad)
            assert told.returncode and word in told.stderr, f"{bad['kind']}: {told.stderr or told.stdout}"
        for good in (pod(), *(workload(kind) for kind in WORKLOADS)):
            told = answer(good)
            assert told.returncode == 0, told.stderr
    finally:
        cluster.kubectl("delete", "-f", "-", objects=policies)
