"""The log of requests: into the log of Serve, where JSON stays JSON, and to the console of `emoji-ldm serve`."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque

LOGGER = "emoji_ldm.serve"
MAX_BUFFERED_LINES = 10_000  # lines for a console that does not come for them
POLL_S = 1.0  # how long a console waits for the next line


class RequestLogHandler(logging.Handler):
    """Hands each line to Serve's logger, and keeps it for who follows."""

    def __init__(self) -> None:
        """Listen from now on; made within the event loop of the ingress."""
        super().__init__()
        self.lines: deque[str] = deque(maxlen=MAX_BUFFERED_LINES)
        self.loop, self.more = asyncio.get_running_loop(), asyncio.Event()
        logger = logging.getLogger(LOGGER)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a line on."""
        line = self.format(record)
        logging.getLogger("ray.serve").log(record.levelno, "request", extra={"fields": _fields(line)})
        self.lines.append(line)
        self.loop.call_soon_threadsafe(self.more.set)

    async def take(self) -> list[str]:
        """The lines since the last time; waits a moment for one."""
        try:
            async with asyncio.timeout(POLL_S):
                await self.more.wait()
        except TimeoutError:
            return []
        self.more.clear()
        taken = list(self.lines)
        self.lines.clear()
        return taken


def _fields(line: str) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return line
