"""An event loop in a thread of its own, for coroutines that several other threads wait for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """A running event loop; it ends by `close`, or with this process."""

    def __init__(self, name: str) -> None:
        """Start the thread; `name` is shown by debuggers."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Return the result of a coroutine, or raise its exception; any thread but its own may call this."""
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

    def close(self) -> None:
        """Cancel what still runs, and end the thread. A second call does nothing."""
        if self._thread.is_alive():
            self.run(cancel_tasks())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


async def cancel_tasks() -> None:
    """Cancel all other tasks of the running loop, and wait for their end."""
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
