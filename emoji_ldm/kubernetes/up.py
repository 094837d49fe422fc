"""`emoji-ldm cluster up`: an overlay on a cluster, from its check to the moment when all of it is ready."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from emoji_ldm.errors import ClusterError, ConfigError
from emoji_ldm.kubernetes import preflight, secrets, status
from emoji_ldm.kubernetes.kubectl import NAMESPACE, Kubectl, KubeObject
from emoji_ldm.kubernetes.overlay import Overlay, is_submitted
from emoji_ldm.kubernetes.status_rows import DONE, FAILED, READY, WAITS, StatusRow
from emoji_ldm.progress import format_duration, print_status

POLL_S = 3.0
FIRST_KINDS = ("Namespace", "CustomResourceDefinition")
OPERATOR_STARTING = re.compile(
    r"failed calling webhook|no matches for kind|no endpoints available"
)  # an operator that just began
NO_CHECKPOINT_YET = re.compile(
    r"no \w+ checkpoint|holds its checkpoint"
)  # what is said of the service until `train` has run


def run(kubectl: Kubectl, overlay: Overlay, timeout_s: float) -> int:
    """Install the overlay and wait until it is ready.

    Raises:
        ConfigError: The manifests do not hold what the check asks for.
        ClusterError: The cluster lacks something, refuses something, or is not ready in time.
    """
    checked(overlay)
    print_status(f"installing {overlay.name} on {kubectl.describe_context()}")
    operators = preflight.check_operators(overlay, kubectl.api_resources)
    deadline = time.monotonic() + timeout_s
    _until(lambda: preflight.operators_not_ready(kubectl, overlay, operators), deadline, "operators")
    _apply(kubectl, overlay.of_kinds(*FIRST_KINDS), deadline)
    if made := secrets.ensure(kubectl, overlay):
        print_status(f"Secrets made with random values: {', '.join(made)}")
    rest = [obj for obj in overlay.objects if obj["kind"] not in FIRST_KINDS and not is_submitted(obj)]
    _apply(kubectl, rest, deadline)
    print_status(f"applied {len(rest)} objects in namespace {NAMESPACE}; waiting until they are ready")
    rows = _wait(kubectl, deadline)
    print_status(f"next: {status.next_command(rows).replace('--overlay NAME', f'--overlay {overlay.name}')}")
    return 0


def checked(overlay: Overlay) -> None:
    """Check the manifests offline.

    Raises:
        ConfigError: They do not hold; every finding is printed before.
    """
    from emoji_ldm.kubernetes.lint import check

    findings = check(overlay.folder, overlay.name)
    for finding in findings:
        print_status(str(finding))
    if findings:
        again = f"emoji-ldm cluster check --overlay {overlay.name}"
        raise ConfigError(
            f"nothing was applied: {len(findings)} findings in overlay {overlay.name}; mend them: {again}"
        )


def applied(kubectl: Kubectl, objects: list[KubeObject]) -> None:
    """Apply on the server, as `kubectl apply --server-side -k` would."""
    kubectl.run("apply", "--server-side", "--filename", "-", input_objects=objects)


def _apply(kubectl: Kubectl, objects: list[KubeObject], deadline: float) -> None:
    while objects:
        try:
            return applied(kubectl, objects)
        except ClusterError as error:
            if not OPERATOR_STARTING.search(str(error)) or time.monotonic() > deadline:
                raise
            print_status(f"an operator is not ready yet: {error}")
            time.sleep(POLL_S)


def _wait(kubectl: Kubectl, deadline: float) -> list[StatusRow]:
    """Tell every change until store, cluster and service are ready."""
    told: dict[tuple[str, str], tuple[str, str]] = {}

    def late() -> str:
        rows[:] = status.read_status(kubectl)[0]
        for row in rows:
            if row.kind not in ("job", "queue") and told.get((row.kind, row.name)) != (row.state, row.reason):
                told[row.kind, row.name] = row.state, row.reason
                print_status(f"  {row.kind} {row.name}: {row.state}{f', {row.reason}' if row.reason else ''}")
        failed = next((row for row in rows if row.kind in ("setup", "cluster") and row.state == FAILED), None)
        if failed:
            raise ClusterError(f"{failed.kind} {failed.name} failed: {failed.reason or 'no reason given'}")
        return "; ".join(f"{row.kind} {row.name}: {row.reason or row.state}" for row in rows if _unready(row))

    rows: list[StatusRow] = []
    _until(late, deadline, "", quiet=True)
    return rows


def _unready(row: StatusRow) -> bool:
    """The service needs a checkpoint, which the stages have yet to make: that is no reason to wait."""
    if row.kind == "service" and NO_CHECKPOINT_YET.search(row.reason):
        return False
    return row.kind in ("server", "setup", "cluster", "service") and row.state not in (READY, DONE)


def _until(late: Callable[[], str], deadline: float, what: str, *, quiet: bool = False) -> None:
    """Ask until nothing is late any more."""
    told, began = "", time.monotonic()
    while why := late():
        if time.monotonic() > deadline:
            raise ClusterError(f"not ready after {format_duration(time.monotonic() - began)}: {why}; what was applied stays, and "
                               "goes on by itself: emoji-ldm cluster status")  # fmt: skip
        if why != told and not quiet:
            print_status(f"  {what}: {WAITS}, {why}")
        told = why
        time.sleep(POLL_S)
