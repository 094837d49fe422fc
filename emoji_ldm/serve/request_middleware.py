"""One JSON line per request, to the logger `emoji_ldm.serve`; where it goes is up to the process.

What every request goes through: an id, a line in the log, an end for who is too slow, and one for who leaves.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from contextlib import suppress
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from emoji_ldm.serve.errors import RequestError, to_request_error

LOG = logging.getLogger("emoji_ldm.serve")
DEBUG_ROUTES = ("/health",)  # asked every few seconds by machines


class AccessLogEntry:
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
        LOG.log(logging.DEBUG if route in DEBUG_ROUTES else logging.INFO, json.dumps(facts))


REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
BODY_GRACE_S = 20.0  # a body may take as long, and then
MIN_BODY_BYTES_PER_S = 50_000  # bytes a second on average
SEND_TIMEOUT_S = 60.0  # a client that takes nothing for as long is gone
CLIENT_CLOSED_STATUS = 499  # what the log says of a client that did not wait; nobody gets it


class RequestMiddleware:
    """The outermost part of the application."""

    def __init__(self, app: ASGIApp, *, tells_id: bool) -> None:
        """Stand before an application; `tells_id`: answers carry `x-request-id`, which Ray Serve adds by itself."""
        self.app, self.tells_id = app, tells_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        state = scope.setdefault("state", {})
        told = Headers(scope=scope).get("x-request-id", "")
        state["id"] = told if REQUEST_ID.fullmatch(told) else f"req_{uuid.uuid4().hex}"
        state["facts"] = {}
        passage = RequestLifecycle(scope, receive, send, state["id"] if self.tells_id else "")
        try:
            await passage.run(self.app)
        finally:
            passage.line.write()
        return None


class RequestLifecycle:
    """One request on its way."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, shown_id: str) -> None:
        """Take what the server gave."""
        self.scope, self._receive, self._send, self.shown_id = scope, receive, send, shown_id
        self.line = AccessLogEntry(scope)
        self.asked: float | None = None  # when the body was first asked for
        self.left, self.answered = asyncio.Event(), False
        self.watch: asyncio.Task[None] | None = None
        self.task, self.cancelled = asyncio.current_task(), False

    async def run(self, app: ASGIApp) -> None:
        """Run the application, which is cancelled when the client leaves: its rows are freed by whoever draws them.

        A server that cancels by itself, as Ray Serve does, comes to the same.
        """
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            self._count_left()
            if not self.cancelled or (self.task and self.task.uncancel()):  # the server cancelled as well
                raise
        except Exception as error:  # noqa: BLE001 - the edge: whatever happened, the client gets an answer
            await self._fail(error)
        finally:
            if self.watch:
                self.watch.cancel()

    async def receive(self) -> Message:
        """The next part of the body; once it is whole, the client's leaving. RequestError (408) for a slow body."""
        if self.watch:
            await self.left.wait()
            return {"type": "http.disconnect"}
        try:
            async with asyncio.timeout_at(self._latest()):
                message = await self._receive()
        except TimeoutError:
            raise RequestError("the body comes too slowly", status=408, code="slow_body",
                               headers={"Connection": "close"}) from None  # fmt: skip
        self.line.bytes_in += len(message.get("body", b""))
        if message["type"] == "http.disconnect":
            self.left.set()
        elif not message.get("more_body", False):
            self.watch = asyncio.create_task(self._wait_until_left())
        return message

    async def send(self, message: Message) -> None:
        """Pass on a part of the answer."""
        if message["type"] == "http.response.start":
            self.line.status = message["status"]
            if self.shown_id:
                MutableHeaders(scope=message)["x-request-id"] = self.shown_id
        self.line.bytes_out += len(message.get("body", b""))
        self.answered = message["type"] == "http.response.body" and not message.get("more_body", False)
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await self._send(message)
        except TimeoutError:
            self.left.set()
            raise ConnectionAbortedError(f"the client took nothing for {SEND_TIMEOUT_S:.0f} s") from None

    def _latest(self) -> float:
        """When the next part of the body must be here, by the loop's clock."""
        now = asyncio.get_running_loop().time()
        self.asked = now if self.asked is None else self.asked
        return self.asked + BODY_GRACE_S + self.line.bytes_in / MIN_BODY_BYTES_PER_S

    async def _wait_until_left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.left.set()
        if self.task and not self.answered:  # servers tell of a whole answer in the same way
            self.cancelled = self.task.cancel()

    async def _fail(self, error: Exception) -> None:
        """Answer 500; an answer that has begun is broken off, which is all that a client can be told then."""
        if self.left.is_set():
            return self._count_left()
        LOG.error("request %s failed", self.scope["state"]["id"], exc_info=error)
        if self.line.status:
            raise error
        with suppress(OSError):
            await to_request_error(error).response()(self.scope, self.receive, self.send)
        return None

    def _count_left(self) -> None:
        self.line.status = self.line.status if self.answered else CLIENT_CLOSED_STATUS
