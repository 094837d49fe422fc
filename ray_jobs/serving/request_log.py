"""The request log: written to the log of Ray Serve, as structured fields, and to the console of `emoji-ldm serve`.

Requests are handled in the process of the ingress; the console is another process, which fetches new lines.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from contextlib import suppress

LOGGER = "emoji_ldm.serve"
# Older lines are dropped: on Kubernetes no console ever fetches them.
MAX_BUFFERED_LINES = 10_000
POLL_S = 1.0  # how long a console waits for a line


class RequestLogHandler(logging.Handler):
    """Passes each line to Serve's logger, and keeps it for a console."""

    def __init__(self) -> None:
        """Handle the lines of the request logger; to be created in the event loop of the ingress."""
        super().__init__()
        self.lines: deque[str] = deque(maxlen=MAX_BUFFERED_LINES)
        self.loop, self.available = asyncio.get_running_loop(), asyncio.Event()
        logger = logging.getLogger(LOGGER)
        logger.setLevel(logging.INFO)
        # Otherwise each line would appear a second time, by the handlers of the root logger.
        logger.propagate = False
        logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a line on; called in any thread."""
        line = self.format(record)
        logging.getLogger("ray.serve").log(record.levelno, "request", extra={"fields": _fields(line)})
        # The deque is safe to append to from any thread; the event is not, so the loop sets it.
        self.lines.append(line)
        self.loop.call_soon_threadsafe(self.available.set)

    async def drain(self) -> list[str]:
        """Return the lines since the last call; waits a moment for one."""
        try:
            async with asyncio.timeout(POLL_S):
                await self.available.wait()
        except TimeoutError:
            return []
        # Cleared before the lines are taken: a line that arrives in between sets the event again, which only makes the
        # next call return at once.
        self.available.clear()
        # One by one: other threads append meanwhile, which a copy of the deque would stumble over, and a line that came
        # between a copy and a `clear` would be lost.
        drained = list[str]()
        with suppress(IndexError):
            while len(drained) < MAX_BUFFERED_LINES:
                drained.append(self.lines.popleft())
        return drained


def _fields(line: str) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return line
