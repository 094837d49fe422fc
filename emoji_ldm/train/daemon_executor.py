"""One thread that does one thing after another, and keeps no process from ending."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class DaemonExecutor:
    """Unlike an executor's, it is a daemon: what it hangs in ends with the process."""

    def __init__(self, name: str) -> None:
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._left = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, act: Callable[..., T], *args: Any) -> Future[T]:
        """Have `act(*args)` done after what was submitted before."""
        future: Future[T] = Future()

        def do() -> None:
            if not self._left and future.set_running_or_notify_cancel():
                try:
                    future.set_result(act(*args))
                except BaseException as error:  # noqa: BLE001 (told to who asks the future)
                    future.set_exception(error)

        self._queue.put(do)
        return future

    def close(self, timeout_s: float) -> bool:
        """Wait until all that was submitted is done; False if that takes longer: it is left behind."""
        self._queue.put(None)
        self._thread.join(timeout_s)
        self._left = self._thread.is_alive()
        return not self._left

    def _run(self) -> None:
        while do := self._queue.get():
            do()
