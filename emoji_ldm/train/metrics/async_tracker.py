"""A thread between training and a tracker: training never waits for it, nor ends with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from emoji_ldm.errors import StoreError
from emoji_ldm.train.daemon_executor import DaemonExecutor

REST_FACTOR = 20  # times as long as sending took; so a log of many lines costs a twentieth of a thread
MAX_REST_S = 10.0
CLOSE_TIMEOUT_S = 60.0  # a tracker that does not answer is left behind

LogLines = Sequence[Mapping[str, Any]]


class MetricsTracker(Protocol):
    """Something that keeps log lines and sample grids."""

    def send(self, lines: LogLines) -> None:
        """Take all lines so far, of which it keeps those it has not."""
        ...

    def picture(self, png: bytes, step: int, kind: str) -> None:
        """Take a grid of pictures, `samples` or `pairs`."""
        ...

    def close(self, *, done: bool) -> None:
        """The training is over, or had to end before it was done."""
        ...


class AsyncTracker:
    """Builds a tracker in a thread of its own and feeds it; the first failure turns it off, with one note."""

    def __init__(
        self, name: str, build: Callable[[], MetricsTracker], owns: Callable[[], bool], *, patient: bool = False
    ) -> None:
        """`owns` says whether this group may still write for its run; a `patient` feed tries again after failures."""
        self.name, self.patient = name, patient
        self._build, self._owns = build, owns
        self._thread = DaemonExecutor(name)
        self._tracker: MetricsTracker | None = None
        self._notes: SimpleQueue[str] = SimpleQueue()
        self._off = self._noted = self._closed = False
        self._sending: Future[None] | None = None
        self._rest_until = 0.0

    def send(self, lines: LogLines, *, last: bool = False) -> None:
        """Bring the lines, unless the thread is still busy with earlier ones."""
        busy = self._sending is not None and not self._sending.done()
        if last or not (busy or time.monotonic() < self._rest_until):
            self._sending = self._thread.submit(self._send, lines)

    def picture(self, png: bytes, step: int, kind: str = "samples") -> None:
        """Bring a grid of pictures; one that comes after `close` is left out."""
        if self._closed:
            return
        self._thread.submit(self._do, lambda tracker: tracker.picture(png, step, kind))

    def close(self, *, done: bool = True) -> None:
        """Wait for all that was sent, but not for ever."""
        self._closed = True
        self._thread.submit(self._do, lambda tracker: tracker.close(done=done))
        if not self._thread.close(CLOSE_TIMEOUT_S):
            self._note(f"{self.name} did not answer within {CLOSE_TIMEOUT_S:.0f} s")

    def notes(self) -> list[str]:
        """What went wrong since the last call, a line each."""
        found = []
        while True:
            try:
                found.append(self._notes.get_nowait())
            except Empty:
                return found

    def _send(self, lines: LogLines) -> None:
        began = time.monotonic()
        self._do(lambda tracker: tracker.send(lines))
        self._rest_until = time.monotonic() + min(MAX_REST_S, REST_FACTOR * (time.monotonic() - began))

    def _do(self, act: Callable[[MetricsTracker], None]) -> None:
        if self._off:
            return
        try:
            if not self._owns():
                self._off = True  # another driver took the run over: its own group writes now
                return
            self._tracker = self._tracker or self._build()
            act(self._tracker)
            self._noted = False  # what fails again is news again
        except StoreError as error:  # may pass, and a store that stays away ends the training at its next checkpoint
            self._note(f"{self.name} waits: {error}")
        except Exception as error:  # noqa: BLE001 (whatever a tracker raises, training goes on without it)
            self._off = not self.patient
            self._noted = self._noted and self.patient  # its end is told whatever was told before
            told = "failed and is tried again" if self.patient else "failed and gets no more lines"
            self._note(f"{self.name} {told}: {describe_error(error)}")

    def _note(self, text: str) -> None:
        if not self._noted:
            self._notes.put(text)
        self._noted = True


def describe_error(error: Exception) -> str:
    """Its kind and text, in one short line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
