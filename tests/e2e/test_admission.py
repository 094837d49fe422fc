"""Admission policies on a real API server: each rule refuses what it is for, in words that name the remedy.

Objects are sent as a dry run: the API server judges them and stores nothing.
"""

import copy
import json
import subprocess

import pytest

from emoji_ldm.kubernetes.kubectl import NAMESPACE, find_kubectl
from emoji_ldm.kubernetes.lint.rendering import render
from emoji_ldm.kubernetes.overlay import is_submitted
from tests.e2e.conftest import OVERLAY, kubectl
from tests.manifests.plausible import OWN_POD, changed
from tests.manifests.render import K8S

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("installed")]
POD, BOX = "spec.template.spec", "spec.template.spec.containers.0"
DEPLOYMENT = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "e2e-own", "namespace": NAMESPACE},
              "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "own"}},
                       "template": {"metadata": {"labels": {"app": "own"}}, "spec": OWN_POD}}}  # fmt: skip
HEAD = "spec.rayClusterSpec.headGroupSpec"
# Where Kueue runs, its webhook gives a job without a queue the queue `default` before this rule is asked.
OF_QUEUES = "kueue.x-k8s.io/queue-name is missing"
# What a policy says of it, and the change of a good object that it refuses.
OF_WORKLOADS = {
    "has no digest": {f"{BOX}.image": "redis:7"},
    "the network, the processes or the memory of its node": {f"{POD}.hostPID": True},
    "a folder of the node (hostPath)": {f"{POD}.volumes": [{"name": "own", "hostPath": {"path": "/"}}]},
    "a container takes a port of its node": {f"{BOX}.ports": [{"containerPort": 80, "hostPort": 80}]},
    "a container is privileged": {f"{BOX}.securityContext": {"privileged": True}},
    "has no limits for cpu and memory": {f"{BOX}.resources": {}},
    "does not tolerate the taint nvidia.com/gpu": {
        f"{BOX}.resources.limits": {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": "1"}},
}  # fmt: skip
OF_JOBS = {
    "authOptions.mode is not token": {"spec.rayClusterSpec.authOptions.mode": "disabled"},
    "authOptions.secretName is missing": {"spec.rayClusterSpec.authOptions": {"mode": "token"}},
    "the dashboard gets an Ingress": {f"{HEAD}.enableIngress": True},
    "can be reached from outside": {f"{HEAD}.serviceType": "LoadBalancer"},
}


@pytest.fixture(scope="module", autouse=True)
def policies():
    """The validations of this project's policies that the cluster has."""
    words = ("get", "validatingadmissionpolicies", "-l", "app.kubernetes.io/part-of=emoji-ldm", "-o", "json")
    found = json.loads(kubectl(*words))["items"]
    if not found:
        pytest.skip(f"overlay {OVERLAY} has no admission policies")
    return [one for policy in found for one in policy["spec"]["validations"]]


@pytest.fixture(scope="module")
def job():
    """A job as `submit` would create it."""
    found = next(obj for obj in render(K8S, OVERLAY) if is_submitted(obj) and obj["metadata"]["name"] == "crawl")
    found = copy.deepcopy(found)
    found["metadata"]["name"] = "e2e-admitted"
    return found


def answer(obj, output="name"):
    """(whether the API server would take the object, what it says)."""
    command = [find_kubectl(), "--namespace", NAMESPACE, "create", "--dry-run=server", "-o", output, "-f", "-"]
    done = subprocess.run(command, input=json.dumps(obj), capture_output=True, text=True, timeout=60, check=False)
    return done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("words", OF_WORKLOADS)
def test_a_workload_that_breaks_a_rule_is_refused_in_its_words(words):
    (bad,) = changed([DEPLOYMENT], {"Deployment/e2e-own": OF_WORKLOADS[words]})
    taken, said = answer(bad)
    assert not taken and words in said, said


@pytest.mark.parametrize("words", OF_JOBS)
def test_a_job_that_breaks_a_rule_is_refused_in_its_words(words, job):
    (bad,) = changed([job], {"RayJob/e2e-admitted": OF_JOBS[words]})
    taken, said = answer(bad)
    assert not taken and words in said, said


def test_a_job_without_a_queue_is_refused_or_gets_the_default_one(job):
    (bad,) = changed([job], {"RayJob/e2e-admitted": {"metadata.labels": {}}})
    taken, said = answer(bad, "json")
    assert (
        json.loads(said)["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "default" if taken else OF_QUEUES in said
    )


def test_what_breaks_no_rule_is_taken(job):
    for good in (DEPLOYMENT, job):
        taken, said = answer(good)
        assert taken, said


def test_every_rule_of_the_policies_has_a_case(policies, record):
    told = [one.get("message") or one["messageExpression"] for one in policies]
    cases = [*OF_WORKLOADS, *OF_JOBS, OF_QUEUES]
    assert [text for text in told if not any(words in text for words in cases)] == []
    assert len(told) == len(cases)
    record("rules of the admission policies", len(told))
