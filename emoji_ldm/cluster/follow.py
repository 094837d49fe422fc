"""A RayJob from its creation to its end: every change of its state, and the log of every attempt."""

from __future__ import annotations

import math
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from emoji_ldm.cluster import status
from emoji_ldm.cluster.kubectl import NAMESPACE, Kubectl, Thing, trouble
from emoji_ldm.cluster.reasons import World
from emoji_ldm.cluster.rows import DONE, FAILED, WAITS, Row, of_job
from emoji_ldm.errors import ClusterError
from emoji_ldm.progress import say

POLL_S = 2.0
WHY_EVERY_S = 10.0
LAST_WORDS_S = 15.0  # what a log that has ended may still need to arrive
INTERRUPTED = 130
EXIT_CODE = re.compile(r"exit code (\d+)")


def follow(kubectl: Kubectl, name: str) -> int:
    """Tell what a job does until it ends; returns the exit status of its command, 130 if its user stops following.

    Raises:
        ClusterError: The job is not there (any more), or the cluster cannot be reached.
    """
    try:
        with _log(kubectl, name) as log:
            row = _to_end(kubectl, name, log)
    except KeyboardInterrupt:
        say(f"\nthe job goes on\nto follow it again: emoji-ldm cluster logs {name} --follow\n"
            f"to stop it: kubectl -n {NAMESPACE} delete rayjob {name}")  # fmt: skip
        return INTERRUPTED
    if row.state == DONE:
        say(f"job {name} succeeded")
        return 0
    say(f"job {name} failed: {row.why or 'no reason given'}")
    code = EXIT_CODE.search(row.why)
    return int(code[1]) or 1 if code else 1


class _Log:
    """The log of the newest submitter Pod, as a kubectl that writes to our standard output."""

    def __init__(self, kubectl: Kubectl, name: str) -> None:
        self.kubectl, self.name = kubectl, name
        self.pod, self.since = "", ""
        self.process: subprocess.Popen[str] | None = None

    def attend(self) -> None:
        """Begin with the Pod of a new attempt; go on where a connection was lost."""
        if self.process is not None and self.process.poll() is None:
            return
        pod = newest(self.kubectl, self.name)
        if pod is None or (pod == self.pod and self.process is not None and self.process.returncode == 0):
            return
        resumed = ("--since-time", self.since) if pod == self.pod else ()
        self.pod, self.since = pod, f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        self.process = self.kubectl.start("logs", "--follow", pod, *resumed, stderr=subprocess.PIPE)

    def end(self, patience_s: float) -> None:
        """Let the log come to its end, but not for longer."""
        if self.process is None:
            return
        try:
            _, complaint = self.process.communicate(timeout=patience_s)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            self.process.communicate()
        else:
            if self.process.returncode:
                say(f"the log is not all here: {trouble(complaint)}")


@contextmanager
def _log(kubectl: Kubectl, name: str) -> Iterator[_Log]:
    log = _Log(kubectl, name)
    try:
        yield log
    finally:
        log.end(0.0)


def newest(kubectl: Kubectl, name: str) -> str | None:
    """Name of the Pod that submits the job now, and prints its log; None before there is one that began."""
    pods = kubectl.items("pods", "--selector", f"job-name={name}")
    begun = [pod for pod in pods if (pod.get("status") or {}).get("phase") in ("Running", "Succeeded", "Failed")]
    last = max(begun, key=_made, default=None)
    return str(last["metadata"]["name"]) if last else None


def _made(thing: Thing) -> str:
    return str(thing["metadata"].get("creationTimestamp") or "")


def _to_end(kubectl: Kubectl, name: str, log: _Log) -> Row:
    told, looked = "", -math.inf
    row: Row | None = None
    while row is None or row.state not in (DONE, FAILED):
        if row is not None:
            time.sleep(POLL_S)
        job = kubectl.one("rayjobs.ray.io", name)
        if job is None:
            raise ClusterError(f"job {name} is not there any more; somebody deleted it")
        row = of_job(job, World((job,)))
        if row.state == WAITS and time.monotonic() - looked < WHY_EVERY_S:
            continue
        if row.state == WAITS:  # why, is written in other objects; they may be many
            looked = time.monotonic()
            row = next((row for row in status.read(kubectl)[0] if (row.kind, row.name) == ("job", name)), row)
        text = f"{row.state}{f', {row.why}' if row.why else ''}"
        if text != told and row.state not in (DONE, FAILED):
            say(f"job {name}: {text}")
        told = text
        log.attend()
    log.end(LAST_WORDS_S)
    return row
