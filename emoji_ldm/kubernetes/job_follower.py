"""Follows a RayJob to its end: prints every change of its state and the log of every attempt.

State and log come from different sources. The state is polled from the RayJob; while it waits, the reason is looked up
in other objects. The log is that of the submitter Pod, streamed by a kubectl process. A suspended or retried job has a
new submitter Pod, a lost connection ends the process without ending the job, and the cluster may not answer for minutes
while the job runs on; the classes below and `submitter_log` handle one of these each.
"""

from __future__ import annotations

import math
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from emoji_ldm.errors import ClusterError
from emoji_ldm.kubernetes import status
from emoji_ldm.kubernetes.diagnostics import NamespaceState
from emoji_ldm.kubernetes.kubectl import ClusterUnreachable, Kubectl, explain_error
from emoji_ldm.kubernetes.lint.rendering import KubeObject
from emoji_ldm.kubernetes.status_rows import DONE, FAILED, RUNNING, WAITING, StatusRow, job_row
from emoji_ldm.kubernetes.submitter_log import print_log
from emoji_ldm.progress import print_status

POLL_S = 2.0
DIAGNOSE_EVERY_S = 10.0
LOG_DRAIN_TIMEOUT_S = 15.0  # how long to wait for the rest of the log after the job has ended
MAX_OUTAGE_S = 300.0  # how long a cluster that has answered before may be unreachable
# How far a resumed log reaches back: kubectl takes up to 45 s to notice a dead connection.
OVERLAP_S = 60
INTERRUPTED = 130
SUSPENDED = ("Suspending", "Suspended")
# The exit code of the command is known only from the text of the reason.
EXIT_CODE = re.compile(r"exit code (\d+)")


def follow(kubectl: Kubectl, name: str) -> int:
    """Print state and log of a job until it ends; returns the exit status of its command, or 130 after Ctrl-C.

    Raises:
        ClusterError: The job does not exist (any more), or the cluster has been unreachable for minutes.
    """
    command = f"emoji-ldm cluster logs {name} --follow{kubectl.option}"
    try:
        with _log(kubectl, name) as log:
            row = _follow_to_end(kubectl, name, log)
    except KeyboardInterrupt:
        print_status(
            f"\nthe job continues\nto follow it again: {command}\n"
            f"to stop it: kubectl -n {kubectl.namespace} delete rayjob {name}"
        )
        return INTERRUPTED
    except ClusterUnreachable as error:
        raise ClusterError(f"{error}; job {name} may still be running: {command}") from None
    if row.state == DONE:
        print_status(f"job {name} succeeded")
        return 0
    print_status(f"job {name} failed: {row.reason or 'no reason given'}")
    code = EXIT_CODE.search(row.reason)
    return int(code[1]) or 1 if code else 1


class _LogStream:
    """Streams the log of the newest submitter Pod by a kubectl process to standard output."""

    def __init__(self, kubectl: Kubectl, name: str) -> None:
        self.kubectl, self.name = kubectl, name
        self.pod = ""
        self.last_connected = datetime.now(UTC)  # when the connection was last known to work
        self.process: subprocess.Popen[str] | None = None
        self.printer: threading.Thread | None = None
        self.ended = False

    def ensure_streaming(self) -> None:
        """Start to stream the log of a new attempt, or resume after a lost connection."""
        if self.process is not None and self.process.poll() is None:
            self.last_connected = datetime.now(UTC)
            return
        pod = newest_submitter(self.kubectl, self.name)
        # A process that ended with 0 has printed the whole log of its Pod. Only a new Pod, or a lost connection, needs
        # another.
        if pod is None or (pod == self.pod and self.process is not None and self.process.returncode == 0):
            return
        # kubectl has no cursor, only a time: some lines are printed twice rather than lost.
        since = self.last_connected - timedelta(seconds=OVERLAP_S)
        resumed = ("--since-time", f"{since:%Y-%m-%dT%H:%M:%SZ}") if pod == self.pod else ()
        self.pod = pod
        # A log may hold any bytes, such as those of a terminal's progress bar cut in two.
        self.process = self.kubectl.popen("logs", "--follow", pod, *resumed, errors="replace",
                                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
        self.printer = threading.Thread(target=print_log, args=(self.process.stdout,), daemon=True)
        self.printer.start()
        self.ended = False

    def end(self, timeout_s: float) -> None:
        """Wait for the end of the log, then stop the process; with a timeout of 0, errors are not reported."""
        process, printer, ended = self.process, self.printer, self.ended
        self.ended = True
        if process is None or printer is None or ended:
            return
        # The thread ends with the output of the process.
        printer.join(timeout_s)
        if printer.is_alive():
            process.terminate()
            printer.join()
        elif process.wait() and timeout_s:
            assert process.stderr is not None
            print_status(f"the log is incomplete: {explain_error(process.stderr.read())}")
        process.wait()

    def drain(self) -> None:
        """Print the rest of the log, and that of an attempt which began and ended since the last poll."""
        self.end(LOG_DRAIN_TIMEOUT_S)
        # A short attempt may begin and end between two polls, and it is often the one whose error the user wants to
        # see.
        if newest_submitter(self.kubectl, self.name) not in (None, self.pod):
            self.ensure_streaming()
            self.end(LOG_DRAIN_TIMEOUT_S)


class _OutageTolerance:
    """A context manager that suppresses errors of an unreachable cluster for a while, as jobs outlast connections.

    The first question must be answered: a cluster that has never answered is a mistake, not an outage. A retry library
    does not fit, because each question is a new one and the outage is measured across all of them.
    """

    def __init__(self) -> None:
        self.last_answer: float | None = None
        self.reported = False

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        now = time.monotonic()
        # Any answer ends the outage, also a refusal: the cluster is there. Errors of other kinds are passed on.
        if not isinstance(error, ClusterUnreachable):
            self.last_answer, self.reported = now, False
            return False
        if self.last_answer is None or now - self.last_answer > MAX_OUTAGE_S:
            return False
        if not self.reported:
            print_status(f"{error}; trying again")
        self.reported = True
        return True


@contextmanager
def _log(kubectl: Kubectl, name: str) -> Iterator[_LogStream]:
    log = _LogStream(kubectl, name)
    try:
        yield log
    finally:
        log.end(0.0)


def newest_submitter(kubectl: Kubectl, name: str) -> str | None:
    """Name of the newest submitter Pod of a job, which prints its log; None if none has started yet."""
    pods = kubectl.list_objects("pods", "--selector", f"job-name={name}")
    # A Pod that is pending has no log, and kubectl would fail on it.
    started = [pod for pod in pods if (pod.get("status") or {}).get("phase") in ("Running", "Succeeded", "Failed")]
    last = max(started, key=_created_at, default=None)
    return str(last["metadata"]["name"]) if last else None


def _created_at(obj: KubeObject) -> str:
    return str(obj["metadata"].get("creationTimestamp") or "")


def _follow_to_end(kubectl: Kubectl, name: str, log: _LogStream) -> StatusRow:
    printed, diagnosed_at, tolerance, ran, suspended = "", -math.inf, _OutageTolerance(), False, False
    row: StatusRow | None = None
    # There is no sleep before the first question, so that a job which has ended already is reported at once.
    while row is None or row.state not in (DONE, FAILED):
        if row is not None:
            time.sleep(POLL_S)
        with tolerance:
            job = _job(kubectl, name)
            row = job_row(job, NamespaceState((job,)))
            if row.state == WAITING and time.monotonic() - diagnosed_at < DIAGNOSE_EVERY_S:
                continue
            # The reason is in other objects, which may be many, so it is looked up less often than the state.
            if row.state == WAITING:
                diagnosed_at = time.monotonic()
                row = next(
                    (row for row in status.read_status(kubectl)[0] if (row.kind, row.name) == ("job", name)), row
                )
            text = f"{row.state}{f', {row.reason}' if row.reason else ''}"
            # Before its first start a suspended job just waits in its queue.
            was_suspended, suspended = suspended, ran and row.state == WAITING and _is_suspended(job)
            if was_suspended and suspended:
                continue  # the reason changes while it waits, and one line is enough
            if suspended:
                text = f"suspended{f', {row.reason}' if row.reason else ''}; it goes on from its last commit or " \
                       "checkpoint once it is admitted again"  # fmt: skip
            ran = ran or row.state == RUNNING
            if text != printed and row.state not in (DONE, FAILED):
                print_status(f"job {name}: {text}")
            printed = text
            log.ensure_streaming()
    # The end of the log is what people submit jobs for, so an outage at this moment may not cut it off either.
    is_drained = False
    while not is_drained:
        with tolerance:
            log.drain()
            is_drained = True
        if not is_drained:
            time.sleep(POLL_S)
    return row


def _job(kubectl: Kubectl, name: str) -> KubeObject:
    job = kubectl.get("rayjobs.ray.io", name)
    if job is None:
        raise ClusterError(f"job {name} does not exist any more; it was deleted")
    return job


def _is_suspended(job: KubeObject) -> bool:
    return (job.get("status") or {}).get("jobDeploymentStatus") in SUSPENDED
