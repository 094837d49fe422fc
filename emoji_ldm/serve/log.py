"""One JSON line per request, to the logger `emoji_ldm.serve`; where it goes is up to the process."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from starlette.types import Scope

LOG = logging.getLogger("emoji_ldm.serve")
QUIET = ("/health",)  # asked every few seconds by machines


class Line:
    """The line of one request: what is known when it comes, what routes add to `facts`, and how it ended."""

    def __init__(self, scope: Scope) -> None:
        """Start the clock."""
        self.scope, self.began = scope, time.monotonic()
        self.status, self.bytes_in, self.bytes_out = 0, 0, 0

    def write(self) -> None:
        """Write it; without prompts, unless a route added them."""
        state: dict[str, Any] = self.scope["state"]
        route = getattr(self.scope.get("route"), "path", "")
        facts = {
            "time": round(time.time(), 3),
            "request_id": state["id"],
            "key": getattr(state.get("caller"), "name", ""),
            "method": self.scope["method"],
            "route": route or self.scope["path"],
            **state["facts"],
            "status": self.status,
            "ms": round((time.monotonic() - self.began) * 1000, 1),
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
        }
        LOG.log(logging.DEBUG if route in QUIET else logging.INFO, json.dumps(facts))
