"""A single-thread executor whose thread does not keep the process from ending."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


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
