"""Threads beside the training: an executor that does not keep the process from ending, and the feed of a tracker.

Training neither waits for a tracker nor fails with it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

from emoji_ldm.errors import StoreError
from emoji_ldm.latents.pipeline_source import short_error_text

T = TypeVar("T")
# The thread pauses for this multiple of the time that sending took: a log of many lines, which takes ever longer to
# write, costs at most a twentieth of a core.
REST_FACTOR = 20
MAX_REST_S = 10.0
CLOSE_TIMEOUT_S = 60.0  # a tracker that does not respond by then is abandoned

LogLines = Sequence[Mapping[str, Any]]


class DaemonExecutor:
    """Runs calls one after another in a daemon thread.

    Python joins the threads of a `ThreadPoolExecutor` at exit, so an upload to a dead store or tracker would keep
    the process alive for ever. Whatever hangs in a daemon thread ends with the process.
    """

    def __init__(self, name: str) -> None:
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._abandoned = False
        # Python does not wait for daemon threads at exit.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, function: Callable[..., T], *args: Any) -> Future[T]:
        """Call `function(*args)` after what was submitted before."""
        future: Future[T] = Future()

        def call() -> None:
            # A call that was abandoned never runs; one whose future was cancelled must not, either.
            if not self._abandoned and future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(*args))
                except BaseException as error:  # noqa: BLE001 (raised where the future's result is read)
                    future.set_exception(error)

        self._queue.put(call)
        return future

    def shutdown(self, timeout_s: float) -> bool:
        """Wait until all that was submitted is done; False if that takes longer, and what is left is abandoned."""
        # None ends the thread, after all calls that were queued before it.
        self._queue.put(None)
        self._thread.join(timeout_s)
        self._abandoned = self._thread.is_alive()
        return not self._abandoned

    def _run(self) -> None:
        while call := self._queue.get():
            call()


class MetricsTracker(Protocol):
    """A destination of log lines and sample grids."""

    def log_lines(self, lines: LogLines) -> None:
        """Take all lines so far, and store those that are new to it."""
        ...

    def log_image(self, png: bytes, step: int, kind: str) -> None:
        """Take a grid of images, of kind `samples` or `pairs`."""
        ...

    def close(self, *, done: bool) -> None:
        """Finish: `done` says whether the training reached its last step."""
        ...


class AsyncTracker:
    """Builds a tracker in a thread of its own and feeds it; the first failure turns it off, with one note."""

    def __init__(
        self, name: str, build: Callable[[], MetricsTracker], owns: Callable[[], bool], *, retry_on_error: bool = False
    ) -> None:
        """Start the thread.

        Args:
            name: The name of the tracker in notes.
            build: Makes the tracker; called in the thread, as it may load packages and connect.
            owns: Whether this group may still write for its run, see `run_fencing`.
            retry_on_error: Whether to go on after failures rather than turn the tracker off.
        """
        self.name, self.retry_on_error = name, retry_on_error
        self._build, self._owns = build, owns
        self._thread = DaemonExecutor(name)
        self._tracker: MetricsTracker | None = None
        self._notes: SimpleQueue[str] = SimpleQueue()
        self._off = self._noted = self._closed = False
        self._sending: Future[None] | None = None
        self._rest_until = 0.0

    def log_lines(self, lines: LogLines, *, last: bool = False) -> None:
        """Send the lines, unless the thread is still busy with earlier ones; `last` lines are always sent."""
        busy = self._sending is not None and not self._sending.done()
        if last or not (busy or time.monotonic() < self._rest_until):
            # Nothing is lost if a call is passed over, since each later one brings all lines so far.
            self._sending = self._thread.submit(self._send, lines)

    def log_image(self, png: bytes, step: int, kind: str = "samples") -> None:
        """Send a grid of images; after `close` it is dropped."""
        if self._closed:
            return
        self._thread.submit(self._use_tracker, lambda tracker: tracker.log_image(png, step, kind))

    def close(self, *, done: bool = True) -> None:
        """Wait for all that was sent, up to a time limit."""
        self._closed = True
        self._thread.submit(self._use_tracker, lambda tracker: tracker.close(done=done))
        if not self._thread.shutdown(CLOSE_TIMEOUT_S):
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
        self._use_tracker(lambda tracker: tracker.log_lines(lines))
        self._rest_until = time.monotonic() + min(MAX_REST_S, REST_FACTOR * (time.monotonic() - began))

    def _use_tracker(self, function: Callable[[MetricsTracker], None]) -> None:
        if self._off:
            return
        try:
            if not self._owns():
                # Another driver took the run over, and its own group writes now.
                self._off = True
                return
            # The tracker is built at the first use, and again at the next one if that failed and is to be retried.
            self._tracker = self._tracker or self._build()
            function(self._tracker)
            self._noted = False  # a later failure is a new one
        # An unreachable store may come back. One that does not ends the training at its next checkpoint.
        except StoreError as error:
            self._note(f"{self.name} waits: {error}")
        except Exception as error:  # noqa: BLE001 (whatever a tracker raises, training goes on without it)
            # A tracker that fails once tends to fail again, and each attempt may block for minutes.
            self._off = not self.retry_on_error
            self._noted = self._noted and self.retry_on_error  # that it is turned off is noted in any case
            consequence = "failed and is tried again" if self.retry_on_error else "failed and gets no more lines"
            self._note(f"{self.name} {consequence}: {describe_error(error)}")

    def _note(self, text: str) -> None:
        if not self._noted:
            self._notes.put(text)
        self._noted = True


def describe_error(error: Exception) -> str:
    """Class and text of an error, in one short line."""
    return f"{type(error).__name__}: {short_error_text(error)[:200]}"
