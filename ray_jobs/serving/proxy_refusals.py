"""Refusals in Ray's proxy: a request that the service would refuse again is answered before Ray Serve routes it.

To route a request to the ingress and its answer back takes Ray some twenty times the CPU time that the answer itself
takes. Under overload most requests are refused, and this time is taken from those that draw and from those that are
answered. So the proxy remembers refusals itself: by caller, model, size and steps, as the replicas refuse.

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

from ray.util import metrics
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ray_jobs.serving.refusal_memory import RefusalMemories
from ray_jobs.serving.service_metrics import APP, ClientMetrics

PATH = "/v1/images/generations"
# What has to be equal for an answer to hold for another request: who asks, from where, and for how much.
HEADERS = ("authorization", "host", "origin")
FIELDS = ("model", "size", "n", "num_inference_steps", "steps", "quality", "stream")  # the three set the steps
MAX_BODY_BYTES = 64 * 1024  # of a body that is looked into; a longer one is routed
BODY_S = 1.0  # a body that takes longer to arrive is routed too; the ingress has limits for slow clients
OVERLOADED_STATUS, OVERLOADED_CODE = 503, b'"overloaded"'  # as `emoji_ldm.serve.errors` has them


@dataclass(frozen=True)
class Kind:
    """Requests that are refused together."""

    digest: bytes
    model: str  # as it was asked for
    num_images: int


@dataclass
class Answer:
    """A response as it was sent."""

    start: Message = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    is_complete: bool = False

    def add(self, message: Message) -> None:
        """Take up a part that was sent."""
        if message["type"] == "http.response.start":
            self.start = dict(message)
        self.body += message.get("body", b"")
        self.is_complete = message["type"] == "http.response.body" and not message.get("more_body")

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


class ProxyMetrics:
    """Counts refusals of the proxy where those of the service are counted: in Ray Serve's metrics and in ours."""

    def __init__(self) -> None:
        """Start at zero."""
        tags = ("route", "method", "application")
        self._requests = metrics.Counter("serve_num_http_requests", tag_keys=(*tags, "status_code"))
        self._errors = metrics.Counter("serve_num_http_error_requests", tag_keys=(*tags, "error_code"))
        self._images = ClientMetrics()

    def count_refusal(self, kind: Kind) -> None:
        """Count a request that was refused here."""
        tags, status = {"route": PATH, "method": "POST", "application": APP}, str(OVERLOADED_STATUS)
        self._requests.inc(tags=tags | {"status_code": status})
        self._errors.inc(tags=tags | {"error_code": status})
        self._images.count_refusal(kind.model, kind.num_images)


class RefusalMiddleware:
    """Wraps Ray's proxy."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self.app = app
        self._memories = RefusalMemories[bytes, Answer]()
        self._metrics = ProxyMetrics()

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
        return await self._route(kind, scope, receive_all, send)

    async def _route(self, kind: Kind, scope: Scope, receive: Receive, send: Send) -> None:
        """Route a request of a known kind, unless it would be refused."""
        memory = self._memories.of(kind.digest)
        if refusal := memory.known_refusal():
            self._metrics.count_refusal(kind)
            request_id = Headers(scope=scope).get("x-request-id") or f"req_{uuid.uuid4().hex}"
            return await refusal.send_again(request_id.encode("latin-1"), send)
        answer = Answer()

        async def note_and_send(message: Message) -> None:
            await send(message)
            # Images are not kept, only refusals.
            if message["type"] == "http.response.start" or answer.is_refusal:
                answer.add(message)

        with memory.counted():
            try:
                await self.app(scope, receive, note_and_send)
            finally:
                # Half a refusal, to a client that left meanwhile, is none to send again.
                # And a store that is away, which is a 503 too, may be back at any moment.
                if answer.is_refusal and answer.is_complete and OVERLOADED_CODE in answer.body:
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


def _kind_of(scope: Scope, parts: Sequence[Message]) -> Kind | None:
    """The kind of a request; None if it is to be routed in any case."""
    headers, body = Headers(scope=scope), b"".join(part.get("body", b"") for part in parts)
    is_whole = parts and not parts[-1].get("more_body") and len(body) <= MAX_BODY_BYTES
    # A request that is sent again under its idempotency key gets the answer that the first one got.
    if not is_whole or "idempotency-key" in headers:
        return None
    try:
        fields: Any = json.loads(body)
        if not isinstance(fields, dict):
            return None
        equal = json.dumps([*map(headers.get, HEADERS), *map(fields.get, FIELDS)])
    except (ValueError, RecursionError):
        return None
    # A digest, as it has one length, and keeps no keys of callers.
    digest = hashlib.blake2b(equal.encode(), digest_size=16).digest()
    model, num_images = fields.get("model"), fields.get("n")
    return Kind(digest, model if isinstance(model, str) else "", num_images if isinstance(num_images, int) else 1)


def middlewares() -> list[Middleware]:
    """Return the middlewares of Ray's proxy."""
    return [Middleware(RefusalMiddleware)]
