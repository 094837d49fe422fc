"""`emoji-ldm cluster up`: an overlay on a cluster, from its check to the moment when all of it is ready."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from emoji_ldm.cluster import needs, secrets, status
from emoji_ldm.cluster.kubectl import NAMESPACE, Kubectl, Thing
from emoji_ldm.cluster.overlay import Overlay, submitted
from emoji_ldm.cluster.rows import DONE, FAILED, READY, WAITS, Row
from emoji_ldm.errors import ClusterError, ConfigError
from emoji_ldm.progress import clock, say

POLL_S = 3.0
FIRST = ("Namespace", "CustomResourceDefinition")
YOUNG = re.compile(r"failed calling webhook|no matches for kind|no endpoints available")  # an operator that just began
UNTRAINED = re.compile(r"no \w+ checkpoint|holds its checkpoint")  # what is said of the service until `train` has run


def run(kubectl: Kubectl, overlay: Overlay, timeout_s: float) -> int:
    """Install the overlay and wait until it is ready.

    Raises:
        ConfigError: The manifests do not hold what the check asks for.
        ClusterError: The cluster lacks something, refuses something, or is not ready in time.
    """
    checked(overlay)
    say(f"installing {overlay.name} on {kubectl.where()}")
    operators = needs.check(overlay, kubectl.kinds)
    deadline = time.monotonic() + timeout_s
    _until(lambda: needs.asleep(kubectl, overlay, operators), deadline, "operators")
    _apply(kubectl, overlay.of(*FIRST), deadline)
    if made := secrets.ensure(kubectl, overlay):
        say(f"Secrets made with random values: {', '.join(made)}")
    rest = [thing for thing in overlay.things if thing["kind"] not in FIRST and not submitted(thing)]
    _apply(kubectl, rest, deadline)
    say(f"applied {len(rest)} objects in namespace {NAMESPACE}; waiting until they are ready")
    rows = _wait(kubectl, deadline)
    say(f"next: {status.following(rows).replace('--overlay NAME', f'--overlay {overlay.name}')}")
    return 0


def checked(overlay: Overlay) -> None:
    """Check the manifests offline.

    Raises:
        ConfigError: They do not hold; every finding is printed before.
    """
    from emoji_ldm.cluster.check import check

    findings = check(overlay.folder, overlay.name)
    for finding in findings:
        say(str(finding))
    if findings:
        again = f"emoji-ldm cluster check --overlay {overlay.name}"
        raise ConfigError(
            f"nothing was applied: {len(findings)} findings in overlay {overlay.name}; mend them: {again}"
        )


def applied(kubectl: Kubectl, things: list[Thing]) -> None:
    """Apply on the server, as `kubectl apply --server-side -k` would."""
    kubectl.run("apply", "--server-side", "--filename", "-", given=things)


def _apply(kubectl: Kubectl, things: list[Thing], deadline: float) -> None:
    while things:
        try:
            return applied(kubectl, things)
        except ClusterError as error:
            if not YOUNG.search(str(error)) or time.monotonic() > deadline:
                raise
            say(f"an operator is not ready yet: {error}")
            time.sleep(POLL_S)


def _wait(kubectl: Kubectl, deadline: float) -> list[Row]:
    """Tell every change until store, cluster and service are ready."""
    told: dict[tuple[str, str], tuple[str, str]] = {}

    def late() -> str:
        rows[:] = status.read(kubectl)[0]
        for row in rows:
            if row.kind not in ("job", "queue") and told.get((row.kind, row.name)) != (row.state, row.why):
                told[row.kind, row.name] = row.state, row.why
                say(f"  {row.kind} {row.name}: {row.state}{f', {row.why}' if row.why else ''}")
        failed = next((row for row in rows if row.kind in ("setup", "cluster") and row.state == FAILED), None)
        if failed:
            raise ClusterError(f"{failed.kind} {failed.name} failed: {failed.why or 'no reason given'}")
        return "; ".join(f"{row.kind} {row.name}: {row.why or row.state}" for row in rows if _unready(row))

    rows: list[Row] = []
    _until(late, deadline, "", quiet=True)
    return rows


def _unready(row: Row) -> bool:
    """The service needs a checkpoint, which the stages have yet to make: that is no reason to wait."""
    if row.kind == "service" and UNTRAINED.search(row.why):
        return False
    return row.kind in ("server", "setup", "cluster", "service") and row.state not in (READY, DONE)


def _until(late: Callable[[], str], deadline: float, what: str, *, quiet: bool = False) -> None:
    """Ask until nothing is late any more."""
    told, began = "", time.monotonic()
    while why := late():
        if time.monotonic() > deadline:
            raise ClusterError(f"not ready after {clock(time.monotonic() - began)}: {why}; what was applied stays, and "
                               "goes on by itself: emoji-ldm cluster status")  # fmt: skip
        if why != told and not quiet:
            say(f"  {what}: {WAITS}, {why}")
        told = why
        time.sleep(POLL_S)
