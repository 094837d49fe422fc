"""Refusals in Ray's proxy: a request that the service would refuse again is answered before Ray Serve routes it.

To route a request to the ingress and its answer back takes Ray some twenty times the CPU time that the answer itself
takes. Under overload most requests are refused, and this time is taken from those that draw and from those that are
answered. So the proxy remembers refusals itself: by caller, model and size of the image, as the replicas refuse.

Ray Serve calls `middlewares` in each proxy if RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ray.serve import metrics
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ray_jobs.serving.refusal_memory import RefusalMemories, RefusalMemory

PATH = "/v1/images/generations"
# What has to be equal for an answer to hold for another request: who asks, from where, and for how much.
HEADERS = ("authorization", "host", "origin")
FIELDS = ("model", "size", "n", "stream")
MAX_BODY_BYTES = 64 * 1024  # of a body that is looked into; a longer one is routed
BODY_S = 1.0  # a body that takes longer to arrive is routed too; the ingress has limits for slow clients
OVERLOADED_STATUS = 503


@dataclass
class Answer:
    """A response as it was sent."""

    start: Message = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)

    def add(self, message: Message) -> None:
        """Take up a part."""
        if message["type"] == "http.response.start":
            self.start = dict(message)
        self.body += message.get("body", b"")

    @property
    def is_refusal(self) -> bool:
        """Whether it says that the service is overloaded, and when to come back."""
        names = {name.lower() for name, _ in self.start.get("headers", ())}
        return self.start.get("status") == OVERLOADED_STATUS and b"retry-after" in names

    async def send_again(self, request_id: bytes, send: Send) -> None:
        """Send it to another client."""
        headers = [(name, value) for name, value in self.start["headers"] if name.lower() != b"x-request-id"]
        await send({**self.start, "headers": [*headers, (b"x-request-id", request_id)]})
        await send({"type": "http.response.body", "body": bytes(self.body)})


class RefusalMiddleware:
    """Wraps Ray's proxy."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self.app = app
        self._memories = RefusalMemories[bytes, Answer]()
        self._refusals = metrics.Counter(
            "emoji_ldm_requests_turned_away", "requests that the proxy turned away because queues were full"
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that would be refused, and route all others."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] != PATH:
            return await self.app(scope, receive, send)
        parts = await _first_parts(receive)
        kind = _kind_of(scope, parts)
        unread = deque(parts)

        async def receive_all() -> Message:
            return unread.popleft() if unread else await receive()

        if kind is None:
            return await self.app(scope, receive_all, send)
        return await self._route(self._memories.of(kind), scope, receive_all, send)

    async def _route(self, memory: RefusalMemory[Answer], scope: Scope, receive: Receive, send: Send) -> None:
        """Route a request of a known kind, unless it would be refused."""
        if refusal := memory.known_refusal():
            self._refusals.inc()
            request_id = Headers(scope=scope).get("x-request-id") or f"req_{uuid.uuid4().hex}"
            return await refusal.send_again(request_id.encode("latin-1"), send)
        answer = Answer()

        async def note_and_send(message: Message) -> None:
            # Images are not kept, only refusals.
            if message["type"] == "http.response.start" or answer.is_refusal:
                answer.add(message)
            await send(message)

        with memory.counted():
            try:
                await self.app(scope, receive, note_and_send)
            finally:
                if answer.is_refusal:
                    memory.note_refusal(answer)
        return None


async def _first_parts(receive: Receive) -> list[Message]:
    """The parts of a body, as long as they come soon and are short."""
    parts = list[Message]()
    with suppress(TimeoutError):
        async with asyncio.timeout(BODY_S):
            while not parts or (parts[-1].get("more_body") and sum(map(_size, parts)) <= MAX_BODY_BYTES):
                parts.append(await receive())
    return parts


def _size(part: Message) -> int:
    return len(part.get("body", b""))


def _kind_of(scope: Scope, parts: Sequence[Message]) -> bytes | None:
    """Requests of one kind are refused together; None if this one is to be routed in any case."""
    headers, body = Headers(scope=scope), b"".join(part.get("body", b"") for part in parts)
    is_whole = parts and not parts[-1].get("more_body") and len(body) <= MAX_BODY_BYTES
    # A request that is sent again under its idempotency key gets the answer that the first one got.
    if not is_whole or "idempotency-key" in headers:
        return None
    try:
        fields: Any = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    kind = [*map(headers.get, HEADERS), *map(fields.get, FIELDS)]
    # A digest, as it has one length, and keeps no keys of callers.
    return hashlib.blake2b(json.dumps(kind).encode(), digest_size=16).digest()


def middlewares() -> list[Middleware]:
    """Return the middlewares of Ray's proxy."""
    return [Middleware(RefusalMiddleware)]
