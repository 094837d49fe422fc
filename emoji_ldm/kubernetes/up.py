"""`emoji-ldm cluster up`: installs an overlay and waits until it is ready.

The order matters: the manifests are checked offline, then the operators must be ready, because their webhooks judge
every custom object; the namespace and custom kinds go first, then Secrets with random values where they are missing,
then the rest. Every step can be repeated, so that an interrupted run is continued by running the command again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from emoji_ldm.errors import ClusterError, ConfigError
from emoji_ldm.kubernetes import operator_check, secrets, status
from emoji_ldm.kubernetes.kubectl import NAMESPACE, Kubectl
from emoji_ldm.kubernetes.lint.rendering import KubeObject
from emoji_ldm.kubernetes.overlay import Overlay, is_submitted
from emoji_ldm.kubernetes.status_rows import DONE, FAILED, READY, WAITING, StatusRow
from emoji_ldm.progress import format_duration, print_status

POLL_S = 3.0
FIRST_KINDS = ("Namespace", "CustomResourceDefinition")
# Errors of an operator that has just been installed, which disappear by themselves.
OPERATOR_STARTING = re.compile(r"failed calling webhook|no matches for kind|no endpoints available")
# The reason of the service's state until `train` has written a checkpoint.
NO_CHECKPOINT_YET = re.compile(r"no \w+ checkpoint|contains its checkpoint")


def run(kubectl: Kubectl, overlay: Overlay, timeout_s: float) -> int:
    """Install the overlay and wait until it is ready; returns 0.

    Raises:
        ConfigError: The check has findings.
        ClusterError: The cluster lacks an operator, refuses an object, or is not ready in time.
    """
    require_no_findings(overlay)
    print_status(f"installing {overlay.name} on {kubectl.describe_context()}")
    operators = operator_check.check_operators(overlay, kubectl.api_resources)
    deadline = time.monotonic() + timeout_s
    _wait_until_empty(lambda: operator_check.operators_not_ready(kubectl, overlay, operators), deadline, "operators")
    _apply_when_ready(kubectl, overlay.of_kinds(*FIRST_KINDS), deadline)
    if created := secrets.ensure(kubectl, overlay):
        print_status(f"created Secrets with random values: {', '.join(created)}")
    # RayJobs that are templates would start to run if they were applied.
    rest = [obj for obj in overlay.objects if obj["kind"] not in FIRST_KINDS and not is_submitted(obj)]
    _apply_when_ready(kubectl, rest, deadline)
    print_status(f"applied {len(rest)} objects in namespace {NAMESPACE}; waiting until they are ready")
    rows = _wait(kubectl, deadline)
    print_status(f"next: {status.next_command(rows).replace('--overlay NAME', f'--overlay {overlay.name}')}")
    return 0


def require_no_findings(overlay: Overlay) -> None:
    """Check the manifests offline and print every finding.

    Raises:
        ConfigError: There are findings.
    """
    from emoji_ldm.kubernetes.lint import check

    findings = check(overlay.folder, overlay.name)
    for finding in findings:
        print_status(str(finding))
    if findings:
        command = f"emoji-ldm cluster check --overlay {overlay.name}"
        raise ConfigError(
            f"nothing was applied: {len(findings)} findings in overlay {overlay.name}; fix them, then see: {command}"
        )


def apply(kubectl: Kubectl, objects: list[KubeObject]) -> None:
    """Apply objects on the server, as `kubectl apply --server-side -k` does."""
    # The server merges the fields, so that fields set by controllers survive, and large objects need no annotation that
    # repeats them.
    kubectl.run("apply", "--server-side", "--filename", "-", input_objects=objects)


def _apply_when_ready(kubectl: Kubectl, objects: list[KubeObject], deadline: float) -> None:
    while objects:
        try:
            return apply(kubectl, objects)
        except ClusterError as error:
            # Other errors are mistakes, which waiting does not cure.
            if not OPERATOR_STARTING.search(str(error)) or time.monotonic() > deadline:
                raise
            print_status(f"an operator is not ready yet: {error}")
            time.sleep(POLL_S)


def _wait(kubectl: Kubectl, deadline: float) -> list[StatusRow]:
    """Print every change of state until store, cluster and service are ready; returns the final rows."""
    printed: dict[tuple[str, str], tuple[str, str]] = {}

    def not_ready() -> str:
        rows[:] = status.read_status(kubectl)[0]
        for row in rows:
            if row.kind not in ("job", "queue") and printed.get((row.kind, row.name)) != (row.state, row.reason):
                printed[row.kind, row.name] = row.state, row.reason
                print_status(f"  {row.kind} {row.name}: {row.state}{f', {row.reason}' if row.reason else ''}")
        # A failed setup job or cluster does not recover by itself, so there is nothing to wait for. Servers and
        # services may.
        failed = next((row for row in rows if row.kind in ("setup", "cluster") and row.state == FAILED), None)
        if failed:
            raise ClusterError(f"{failed.kind} {failed.name} failed: {failed.reason or 'no reason given'}")
        return "; ".join(f"{row.kind} {row.name}: {row.reason or row.state}" for row in rows if _is_awaited(row))

    rows: list[StatusRow] = []
    _wait_until_empty(not_ready, deadline, "", quiet=True)
    return rows


def _is_awaited(row: StatusRow) -> bool:
    """Whether `up` waits for it: not for a service without a checkpoint, since only a later `train` writes one."""
    if row.kind == "service" and NO_CHECKPOINT_YET.search(row.reason):
        return False
    return row.kind in ("server", "setup", "cluster", "service") and row.state not in (READY, DONE)


def _wait_until_empty(find_reason: Callable[[], str], deadline: float, subject: str, *, quiet: bool = False) -> None:
    """Poll until there is no reason to wait any more, and print each new reason unless `quiet`.

    A retry library fits an operation that fails until it succeeds. Here the state in between is the output.
    """
    printed, began = "", time.monotonic()
    while reason := find_reason():
        if time.monotonic() > deadline:
            elapsed = format_duration(time.monotonic() - began)
            raise ClusterError(
                f"not ready after {elapsed}: {reason}; what was applied stays and may still become ready: "
                "emoji-ldm cluster status"
            )
        if reason != printed and not quiet:
            print_status(f"  {subject}: {WAITING}, {reason}")
        printed = reason
        time.sleep(POLL_S)
