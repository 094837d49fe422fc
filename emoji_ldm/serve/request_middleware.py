"""The outermost middleware: request ids, the access log, timeouts for slow clients, and client disconnects.

An ASGI server signals a disconnect only to an application that calls `receive` (ASGI specification, HTTP connection
scope). Routes stop calling it once they have the body, so `RequestLifecycle` goes on in a task of its own, and cancels
the route when the client has disconnected. The cancellation reaches the backend, which frees the places of the
request's images in its batches; otherwise the service would go on generating images that no client receives.
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

from emoji_ldm.serve import tracing
from emoji_ldm.serve.errors import RequestError, to_request_error

LOG = logging.getLogger("emoji_ldm.serve")
DEBUG_ROUTES = ("/health",)  # probes call it every few seconds
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")  # any other id from a client could forge log lines
# A body must arrive within BODY_GRACE_S plus its size at MIN_BODY_BYTES_PER_S: a limit on the total time alone would
# refuse large uploads, and one per chunk would let a client hold the connection with a byte now and then (Slowloris).
BODY_GRACE_S = 20.0
MIN_BODY_BYTES_PER_S = 50_000
SEND_TIMEOUT_S = 60.0  # a client that accepts no bytes for this time is treated as disconnected
CLIENT_CLOSED_STATUS = 499  # nginx's status for a client that disconnected; logged, never sent


class RequestMiddleware:
    """Wraps the whole application, including the authentication middleware."""

    def __init__(self, app: ASGIApp, *, adds_request_id: bool) -> None:
        """Wrap an application; Ray Serve adds `x-request-id` itself, so behind it `adds_request_id` is False."""
        self.app, self.adds_request_id = app, adds_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request and write its log line."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        # The state dictionary is shared with `request.state` of all inner layers.
        state = scope.setdefault("state", {})
        client_id = Headers(scope=scope).get("x-request-id", "")
        state["id"] = client_id if REQUEST_ID.fullmatch(client_id) else f"req_{uuid.uuid4().hex}"
        state["facts"] = {}
        lifecycle = RequestLifecycle(scope, receive, send, state["id"] if self.adds_request_id else "")
        try:
            await lifecycle.run(self.app)
        finally:
            lifecycle.log_entry.write()
        return None


class RequestLifecycle:
    """One request from its first byte to the end of its response."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, response_id: str) -> None:
        """Wrap the server's callables; an empty `response_id` adds no header."""
        self.scope, self._receive, self._send, self.response_id = scope, receive, send, response_id
        self.log_entry = AccessLogEntry(scope)
        self.body_started_at: float | None = None  # event loop's clock
        self.client_disconnected, self.response_complete = asyncio.Event(), False
        self.disconnect_task: asyncio.Task[None] | None = None
        self.task, self.cancelled = asyncio.current_task(), False

    async def run(self, app: ASGIApp) -> None:
        """Run the application, and cancel it when the client disconnects."""
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            self._mark_client_closed()
            # Our own cancellation ends here. If the server cancelled as well (Ray Serve does, on a disconnect), its
            # CancelledError must go on: `uncancel` returns how many requests to cancel remain.
            if not self.cancelled or (self.task and self.task.uncancel()):
                raise
        except Exception as error:  # noqa: BLE001 - the outermost edge: the client gets an answer for every failure
            await self._fail(error)
        finally:
            if self.disconnect_task:
                self.disconnect_task.cancel()

    async def receive(self) -> Message:
        """Return the next part of the body, and after the last one wait for the disconnect.

        Raises:
            RequestError: (408) The body arrives too slowly.
        """
        # After the body, the only event that can follow is the disconnect, which the task below already waits for.
        # Two concurrent calls of the server's `receive` are not allowed.
        if self.disconnect_task:
            await self.client_disconnected.wait()
            return {"type": "http.disconnect"}
        try:
            async with asyncio.timeout_at(self._body_deadline()):
                message = await self._receive()
        except TimeoutError:
            raise RequestError("the request body arrives too slowly", status=408, code="slow_body",
                               headers={"Connection": "close"}) from None  # fmt: skip
        self.log_entry.bytes_in += len(message.get("body", b""))
        if message["type"] == "http.disconnect":
            self.client_disconnected.set()
        elif not message.get("more_body", False):
            # The whole body is here, so from now on a disconnect is worth acting upon. Before, the server reports it
            # in place of the rest of the body.
            self.disconnect_task = asyncio.create_task(self._cancel_on_disconnect())
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the response; raises ConnectionAbortedError if the client does not accept it in time."""
        # The status is remembered for the log line, and as the sign that the response has begun.
        if message["type"] == "http.response.start":
            self.log_entry.status = message["status"]
            if self.response_id:
                MutableHeaders(scope=message)["x-request-id"] = self.response_id
        self.log_entry.bytes_out += len(message.get("body", b""))
        self.response_complete = message["type"] == "http.response.body" and not message.get("more_body", False)
        try:
            # A client that stops reading fills the socket's buffer, and `send` then blocks for ever.
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await self._send(message)
        except TimeoutError:
            self.client_disconnected.set()
            raise ConnectionAbortedError(f"the client accepted no data for {SEND_TIMEOUT_S:.0f} s") from None

    def _body_deadline(self) -> float:
        """Return when the next part of the body must have arrived, by the event loop's clock."""
        now = asyncio.get_running_loop().time()
        self.body_started_at = now if self.body_started_at is None else self.body_started_at
        return self.body_started_at + BODY_GRACE_S + self.log_entry.bytes_in / MIN_BODY_BYTES_PER_S

    async def _cancel_on_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.client_disconnected.set()
        # Servers send http.disconnect after a complete response too.
        if self.task and not self.response_complete:
            self.cancelled = self.task.cancel()

    async def _fail(self, error: Exception) -> None:
        """Answer 500. If the response has begun, re-raise: cutting the connection is the last signal left."""
        if self.client_disconnected.is_set():
            return self._mark_client_closed()
        LOG.error("request %s failed", self.scope["state"]["id"], exc_info=error)
        if self.log_entry.status:
            raise error
        with suppress(OSError):
            await to_request_error(error).response()(self.scope, self.receive, self.send)
        return None

    def _mark_client_closed(self) -> None:
        if not self.response_complete:
            self.log_entry.status = CLIENT_CLOSED_STATUS


class AccessLogEntry:
    """The log line of one request, as JSON: its start, what routes add to `state["facts"]`, and its outcome.

    The line goes to the logger `emoji_ldm.serve`; the process decides where that writes.
    """

    def __init__(self, scope: Scope) -> None:
        self.scope, self.started_at = scope, time.monotonic()
        self.status, self.bytes_in, self.bytes_out = 0, 0, 0

    def write(self) -> None:
        """Write the line. It contains no prompt unless a route added it (`serve.log_prompts`)."""
        state: dict[str, Any] = self.scope["state"]
        # The template of the route, such as /v1/models/{model}, keeps the number of distinct values in the logs
        # small.
        route = getattr(self.scope.get("route"), "path", "")
        fields = {
            "time": round(time.time(), 3),
            "request_id": state["id"],
            "key": getattr(state.get("caller"), "name", ""),
            "method": self.scope["method"],
            "route": route or self.scope["path"],
            **state["facts"],
            "status": self.status,
            "ms": round((time.monotonic() - self.started_at) * 1000, 1),
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
        }
        if trace_id := tracing.annotate_request(fields):
            fields["trace_id"] = trace_id
        LOG.log(logging.DEBUG if route in DEBUG_ROUTES else logging.INFO, json.dumps(fields))
