"""A RayJob from its creation to its end: every change of its state, and the log of every attempt."""

from __future__ import annotations

import math
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from emoji_ldm.errors import ClusterError
from emoji_ldm.kubernetes import status
from emoji_ldm.kubernetes.diagnostics import NamespaceState
from emoji_ldm.kubernetes.kubectl import NAMESPACE, ClusterUnreachable, Kubectl, KubeObject, explain_error
from emoji_ldm.kubernetes.status_rows import DONE, FAILED, WAITS, StatusRow, job_row
from emoji_ldm.progress import print_status

POLL_S = 2.0
DIAGNOSE_EVERY_S = 10.0
LOG_DRAIN_TIMEOUT_S = 15.0  # what a log that has ended may still need to arrive
MAX_OUTAGE_S = 300.0  # how long a cluster that did answer may not answer
OVERLAP_S = 60  # of a log that goes on: kubectl takes up to 45 s to see that its connection is dead
INTERRUPTED = 130
EXIT_CODE = re.compile(r"exit code (\d+)")


def follow(kubectl: Kubectl, name: str) -> int:
    """Tell what a job does until it ends; returns the exit status of its command, 130 if its user stops following.

    Raises:
        ClusterError: The job is not there (any more), or the cluster cannot be reached for minutes.
    """
    again = f"emoji-ldm cluster logs {name} --follow"
    try:
        with _log(kubectl, name) as log:
            row = _to_end(kubectl, name, log)
    except KeyboardInterrupt:
        print_status(
            f"\nthe job goes on\nto follow it again: {again}\nto stop it: kubectl -n {NAMESPACE} delete rayjob {name}"
        )
        return INTERRUPTED
    except ClusterUnreachable as error:
        raise ClusterError(f"{error}; job {name} may go on: {again}") from None
    if row.state == DONE:
        print_status(f"job {name} succeeded")
        return 0
    print_status(f"job {name} failed: {row.reason or 'no reason given'}")
    code = EXIT_CODE.search(row.reason)
    return int(code[1]) or 1 if code else 1


class _LogStream:
    """The log of the newest submitter Pod, as a kubectl that writes to our standard output."""

    def __init__(self, kubectl: Kubectl, name: str) -> None:
        self.kubectl, self.name = kubectl, name
        self.pod, self.last_connected = "", datetime.now(UTC)  # when its connection was last known to stand
        self.process: subprocess.Popen[str] | None = None
        self.ended = False

    def ensure_streaming(self) -> None:
        """Begin with the Pod of a new attempt; go on where a connection was lost."""
        if self.process is not None and self.process.poll() is None:
            self.last_connected = datetime.now(UTC)
            return
        pod = newest(self.kubectl, self.name)
        if pod is None or (pod == self.pod and self.process is not None and self.process.returncode == 0):
            return
        since = self.last_connected - timedelta(seconds=OVERLAP_S)
        resumed = ("--since-time", f"{since:%Y-%m-%dT%H:%M:%SZ}") if pod == self.pod else ()
        self.pod = pod
        self.process = self.kubectl.popen("logs", "--follow", pod, *resumed, stderr=subprocess.PIPE)
        self.ended = False

    def end(self, patience_s: float) -> None:
        """Let the log come to its end, but not for longer; who waits for nothing is not told what is missing."""
        process, over = self.process, self.ended
        self.ended = True
        if process is None or over:
            return
        try:
            _, complaint = process.communicate(timeout=patience_s)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.communicate()
        else:
            if process.returncode and patience_s:
                print_status(f"the log is not all here: {explain_error(complaint)}")

    def drain(self) -> None:
        """The log to its end, and that of an attempt which began and ended since the last look."""
        self.end(LOG_DRAIN_TIMEOUT_S)
        if newest(self.kubectl, self.name) not in (None, self.pod):
            self.ensure_streaming()
            self.end(LOG_DRAIN_TIMEOUT_S)


class _OutageTolerance:
    """Bears that the cluster does not answer for a while: a job takes longer than a network stands."""

    def __init__(self) -> None:
        self.answered: float | None = None
        self.told = False

    def __enter__(self) -> None:
        """Something is asked."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        now = time.monotonic()
        if not isinstance(error, ClusterUnreachable):
            self.answered, self.told = now, False
            return False
        if self.answered is None or now - self.answered > MAX_OUTAGE_S:
            return False
        if not self.told:
            print_status(f"{error}; asking again")
        self.told = True
        return True


@contextmanager
def _log(kubectl: Kubectl, name: str) -> Iterator[_LogStream]:
    log = _LogStream(kubectl, name)
    try:
        yield log
    finally:
        log.end(0.0)


def newest(kubectl: Kubectl, name: str) -> str | None:
    """Name of the Pod that submits the job now, and prints its log; None before there is one that began."""
    pods = kubectl.list_objects("pods", "--selector", f"job-name={name}")
    begun = [pod for pod in pods if (pod.get("status") or {}).get("phase") in ("Running", "Succeeded", "Failed")]
    last = max(begun, key=_made, default=None)
    return str(last["metadata"]["name"]) if last else None


def _made(obj: KubeObject) -> str:
    return str(obj["metadata"].get("creationTimestamp") or "")


def _to_end(kubectl: Kubectl, name: str, log: _LogStream) -> StatusRow:
    told, looked, patience = "", -math.inf, _OutageTolerance()
    row: StatusRow | None = None
    while row is None or row.state not in (DONE, FAILED):
        if row is not None:
            time.sleep(POLL_S)
        with patience:
            row = _row(kubectl, name)
            if row.state == WAITS and time.monotonic() - looked < DIAGNOSE_EVERY_S:
                continue
            if row.state == WAITS:  # why, is written in other objects; they may be many
                looked = time.monotonic()
                row = next(
                    (row for row in status.read_status(kubectl)[0] if (row.kind, row.name) == ("job", name)), row
                )
            text = f"{row.state}{f', {row.reason}' if row.reason else ''}"
            if text != told and row.state not in (DONE, FAILED):
                print_status(f"job {name}: {text}")
            told = text
            log.ensure_streaming()
    with patience:
        log.drain()
    return row


def _row(kubectl: Kubectl, name: str) -> StatusRow:
    job = kubectl.get("rayjobs.ray.io", name)
    if job is None:
        raise ClusterError(f"job {name} is not there any more; somebody deleted it")
    return job_row(job, NamespaceState((job,)))
