"""Pods of the tests in a namespace of their own: a listing site to crawl, and clients of the service."""

import json
import subprocess
import time
from pathlib import Path

from emoji_ldm.kubernetes.kubectl import NAMESPACE, find_kubectl
from emoji_ldm.kubernetes.lint.rendering import render
from emoji_ldm.kubernetes.overlay import is_submitted
from tests.manifests.render import K8S

OWN = "emoji-ldm-e2e"
SITE = f"site.{OWN}.svc.cluster.local"
POLICIES = ("e2e-site", "e2e-clients")  # in the project's namespace
SCRIPTS = Path(__file__).parent / "in_cluster"


def call(*words, objects=None, namespace=OWN, check=True, timeout_s=300):
    """What kubectl prints; `objects` are its standard input."""
    told = None if objects is None else "\n---\n".join(json.dumps(obj) for obj in objects)
    command = [find_kubectl(), "--namespace", namespace, *words]
    done = subprocess.run(command, input=told, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert not check or done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


def image(overlay):
    """The small image of the project, as the overlay names it."""
    job = next(obj for obj in render(K8S, overlay) if is_submitted(obj))
    return job["spec"]["submitterPodTemplate"]["spec"]["containers"][0]["image"]


def pod(name, overlay, script, *arguments, env=None, ports=()):
    """A Pod that runs one of the scripts."""
    command = ["python", "-c", (SCRIPTS / script).read_text(), *map(str, arguments)]
    sizes = {"requests": {"cpu": "20m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}
    variables = [{"name": key, "value": text} for key, text in (env or {}).items()]
    container = {"name": "main", "image": image(overlay), "workingDir": "/tmp", "ports": list(ports),
                 "command": command, "env": variables, "resources": sizes}  # fmt: skip
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"restartPolicy": "Never", "containers": [container]}}  # fmt: skip


def open_namespace():
    """Create the namespace, and let the project's Pods and these reach each other, which its policies forbid."""
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OWN}}
    peer = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": OWN}}}]

    def policy(name, labels, kind, rule):
        spec = {"podSelector": {"matchLabels": labels}, "policyTypes": [kind], kind.lower(): [rule]}
        return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "spec": spec,
                "metadata": {"name": name, "namespace": NAMESPACE}}  # fmt: skip

    serve = {"emoji-ldm/stage": "serve", "emoji-ldm/role": "worker"}
    call("apply", "--server-side", "-f", "-", objects=[space])
    # kubectl refuses objects of another namespace than that of its options.
    call("apply", "--server-side", "-f", "-", namespace=NAMESPACE, objects=[
        policy(POLICIES[0], {"emoji-ldm/internet": "true"}, "Egress", {"to": peer}),
        policy(POLICIES[1], serve, "Ingress", {"from": peer})])  # fmt: skip


def close_namespace():
    """Delete what `open_namespace` created, and all Pods in it."""
    call("delete", "networkpolicy", *POLICIES, "--ignore-not-found", namespace=NAMESPACE)
    call("delete", "namespace", OWN, "--ignore-not-found")


def start_site(overlay, num_per_tag):
    """Serve the gallery at http://SITE and wait until it answers."""
    port = {"name": "http", "containerPort": 8080}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "site"},
               "spec": {"selector": {"app": "site"}, "ports": [{"port": 80, "targetPort": 8080}]}}  # fmt: skip
    call("apply", "--server-side", "-f", "-", objects=[
        service, pod("site", overlay, "listing_site.py", SITE, num_per_tag, ports=[port])])  # fmt: skip
    wait_for_log("site", "serving")


def wait_for_log(name, text, timeout_s=300):
    """Wait until a Pod has printed a text."""
    deadline = time.monotonic() + timeout_s
    while text not in call("logs", name, check=False):
        assert time.monotonic() < deadline, call("describe", "pod", name)
        time.sleep(1)


def results_of(name, timeout_s):
    """Wait until a client Pod has ended and return the lines that it printed, parsed."""
    deadline = time.monotonic() + timeout_s
    while json.loads(call("get", "pod", name, "-o", "json"))["status"]["phase"] not in ("Succeeded", "Failed"):
        assert time.monotonic() < deadline, call("logs", name)
        time.sleep(1)
    return [json.loads(line) for line in call("logs", name).splitlines()]
