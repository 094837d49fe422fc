"""From a validated image request to its response: quota, memory budget, generation, encoding, JSON or event stream.

    choose the seeds -> charge the quota -> generate -> encode -> respond

The seeds are chosen here, before anything is generated: a replica may die, and the retry must give the same images. A
request with an idempotency key takes those of its first try, and the response of the first one that succeeded.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.errors import StoreError
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.serve.backend import Backend, ImageTask, PartialImage, QueuePlace, RequestLimits
from emoji_ldm.serve.caller import Caller, owner_of
from emoji_ldm.serve.errors import LOG, RequestError, to_request_error
from emoji_ldm.serve.fan_out import InputImageBudget, generate_all, stream_all
from emoji_ldm.serve.image_encoding import OutputImage, convert, in_image_thread
from emoji_ldm.serve.image_requests import ImageRequest
from emoji_ldm.serve.state.idempotency import RepeatedRequests, request_identity
from emoji_ldm.serve.state.image_links import ImageLinks, absolute

# Random seeds stay far below 2**53, up to which JavaScript holds integers exactly. Any 63-bit seed is accepted.
NUM_SEEDS = 2**31


@dataclass(frozen=True)
class ImageJob:
    """One validated request as the tasks that generate its images."""

    request: ImageRequest
    tasks: Sequence[ImageTask]


@dataclass(frozen=True)
class ImageService:
    """Turns validated requests into responses."""

    backend: Backend
    settings: ServeConfig
    links: ImageLinks | None = None  # without a store there are no links,
    repeated: RepeatedRequests | None = None  # and no idempotency keys
    input_budget: InputImageBudget = field(default_factory=InputImageBudget)

    async def models(self) -> Mapping[str, RequestLimits]:
        """Return the models' limits; raises TimeoutError if the backend does not return them in time."""
        async with asyncio.timeout(self.settings.timeout_s):
            return await self.backend.models()

    async def answer(
        self,
        request: Request,
        parsed: ImageRequest,
        make_requests: Callable[[int], Sequence[GenerationRequest]],
        parts: Sequence[bytes],
    ) -> Response:
        """Return the response to a request.

        Args:
            request: The HTTP request, whose header may have an idempotency key.
            parsed: Its validated fields.
            make_requests: Returns the engine's requests for a first seed.
            parts: What has to be equal in a repetition of the request.
        """
        key = request.headers.get("idempotency-key", "")
        _refuse_useless(key, parsed, has_links=self.links is not None)
        seed = secrets.randbelow(NUM_SEEDS) if parsed.seed is None else parsed.seed
        if not key:
            job = self._create_job(request, parsed, make_requests(seed))
            await _charge(request, job)
            return await self._respond(request, job)
        if self.repeated is None:
            raise RequestError("this service has no store, and so no idempotency keys", param="idempotency_key")
        identity = request_identity(owner_of(request), key, *parts)
        attempt = await self.repeated.begin(identity, seed)
        if attempt.body is not None:
            return Response(attempt.body, media_type="application/json", headers={"Idempotent-Replayed": "true"})
        job, is_paid = self._create_job(request, parsed, make_requests(attempt.seed)), attempt.is_paid
        try:
            if not is_paid:
                await _charge(request, job)
                is_paid = True
            response = await self._respond(request, job)
        except asyncio.CancelledError:
            # The client has left. Shielded, since a second cancellation may come meanwhile.
            end = self.repeated.leave(identity, attempt) if is_paid else self.repeated.forget(identity, attempt)
            await asyncio.shield(_quietly(end))
            raise
        except Exception:
            await _quietly(self.repeated.forget(identity, attempt))
            raise
        await _quietly(self.repeated.finish(identity, attempt, bytes(response.body)))
        return response

    def _create_job(self, request: Request, parsed: ImageRequest, requests: Sequence[GenerationRequest]) -> ImageJob:
        """Return the job of a request, and add its parameters to the request's log line."""
        # OpenAI replaces `user` by `safety_identifier`. Either identifies the end user in the log.
        label = parsed.safety_identifier or parsed.user
        facts = {"model": parsed.model, "n": parsed.n, "steps": requests[0].steps, "user": label}
        prompt = {"prompt": parsed.prompt} if self.settings.log_prompts else {}
        request.state.facts.update(facts | prompt)
        tenant, timeout_s, request_id = request.state.caller.name, self.settings.timeout_s, request.state.id
        tasks = [ImageTask(parsed.model, each, tenant, timeout_s=timeout_s, request_id=request_id,
                           tells_place=parsed.queue_events) for each in requests]  # fmt: skip
        return ImageJob(parsed, tasks)

    async def _respond(self, request: Request, job: ImageJob) -> Response:
        """Return the images, or a stream whose first event is ready; a failure before that is refunded."""
        caller: Caller = request.state.caller
        try:
            if job.request.stream:
                events = _events(self, job)
                # Waiting for the first event here keeps the choice of the status code open until something was
                # generated.
                return EventStream(await anext(events), events)
            with self.input_budget.reserve(job.tasks):
                pngs = await generate_all(self.backend, job.tasks)
            images = await _convert_all(job, pngs)
            has_links = job.request.response_format == "url"
            links = await self._links(request, job.request, images) if has_links else None
        except Exception:
            # A disconnect (CancelledError) is not refunded: the images may be almost finished, and a client could
            # generate for free by disconnecting in time.
            await caller.refund_soon(len(job.tasks))
            raise
        return JSONResponse(response_body(job.request, job.tasks[0].request.seed, images, links))

    async def _links(
        self, request: Request, parsed: ImageRequest, images: Mapping[int, OutputImage]
    ) -> Mapping[int, str]:
        """Store the images and return the URLs of their links."""
        assert self.links is not None  # else it was refused before anything was generated
        adding = [self.links.add(image.data, parsed.output_format) for image in images.values()]
        paths = await asyncio.gather(*adding)
        return {index: absolute(request, path) for index, path in zip(images, paths, strict=True)}


class EventStream(Response):
    """Server-sent events; however the response ends, the generator that makes them is closed.

    FastAPI's EventSourceResponse sends status 200 before the first event exists. Ours takes the first event ready made,
    so that a request which is refused or fails until then is answered with its own status code.
    """

    media_type = "text/event-stream"

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes, None]) -> None:
        """Take the first event, and the generator of the others."""
        # X-Accel-Buffering: nginx would otherwise collect events before it forwards them.
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        # Starlette sets the length of an empty body, while the length of a stream is not known.
        del self.headers["content-length"]
        self.first, self.rest = first, rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self.first, "more_body": True})
            async for chunk in self.rest:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            # Also after a disconnect, which cancels this call: closing the generator cancels what is in progress.
            await self.rest.aclose()


def _refuse_useless(key: str, parsed: ImageRequest, *, has_links: bool) -> None:
    """Raise RequestError for options that an event stream, or a service without a store, cannot keep."""
    if parsed.response_format == "url" and not has_links:
        raise RequestError("response_format='url' is refused: this service has no store", param="response_format")
    if parsed.stream and key:
        raise RequestError("an idempotency key is refused with stream: give a seed, which gives the same images again",
                           param="idempotency_key")  # fmt: skip
    if parsed.stream and parsed.response_format == "url":
        raise RequestError("response_format='url' is refused with stream, whose events hold the images",
                           param="response_format")  # fmt: skip


async def _charge(request: Request, job: ImageJob) -> None:
    """Charge a request before its images: many at once would otherwise all pass the check first."""
    caller: Caller = request.state.caller
    await caller.charge_soon(len(job.tasks))


async def _quietly(work: Awaitable[None]) -> None:
    """Wait for a change of the store that nothing depends on at once; a store that fails is logged."""
    try:
        await work
    except StoreError as error:
        LOG.error("an idempotency key cannot be kept: %s", error)


def response_body(
    request: ImageRequest, seed: int, images: Mapping[int, OutputImage], links: Mapping[int, str] | None = None
) -> dict[str, Any]:
    """Build the JSON body of a response.

    Args:
        request: The validated request.
        seed: Seed of image 0.
        images: Encoded images by their index, from 0.
        links: URLs to answer with instead of the images.
    """
    quality = {} if request.openai_quality == "auto" else {"quality": request.openai_quality}
    # Sorted by index, so that clients can match images to seeds by position.
    data = [{**({"url": links[index]} if links else {"b64_json": _base64(images[index].data)}), "seed": seed + index}
            for index in sorted(images)]  # fmt: skip
    facts = {**quality, **_image_facts(request, images[0])}
    return {"created": int(time.time()), "model": request.full_model, "data": data, **facts}


async def _convert_all(job: ImageJob, pngs: Mapping[int, bytes]) -> dict[int, OutputImage]:
    images = await asyncio.gather(*(in_image_thread(convert, png, job.request.output) for png in pngs.values()))
    return dict(zip(pngs, images, strict=True))


async def _events(service: ImageService, job: ImageJob) -> AsyncGenerator[bytes, None]:
    """Yield the events of a stream. An error before the first event is raised; a later one becomes the last event."""
    started = False
    try:
        with service.input_budget.reserve(job.tasks):
            async with aclosing(stream_all(service.backend, job.tasks, job.request.partial_images)) as arrivals:
                async for arrival in arrivals:
                    # Lines that start with a colon are comments, which clients of event streams ignore.
                    chunk = await _event(job, *arrival) if arrival else b": still drawing\n\n"
                    started = True
                    yield chunk
    except Exception as error:
        if not started:
            raise
        refusal = to_request_error(error)
        if refusal.code == "crash":
            LOG.exception("request %s failed", job.tasks[0].request_id)
        yield _sse("error", {"type": "error", **refusal.body()})


async def _event(job: ImageJob, index: int, item: QueuePlace | PartialImage | bytes) -> bytes:
    """Return the event of a place, a preview or a finished image, with the fields of OpenAI's streaming events."""
    if isinstance(item, QueuePlace):
        kind = f"{job.request.event_prefix}.queued"
        return _sse(kind, {"type": kind, "created_at": int(time.time()), "image_index": index,
                           "seed": job.tasks[index].request.seed, "place": item.place,
                           "eta_s": round(item.eta_s, 1)})  # fmt: skip
    png, name = (item.png, "partial_image") if isinstance(item, PartialImage) else (item, "completed")
    image = await in_image_thread(convert, png, job.request.output)
    kind = f"{job.request.event_prefix}.{name}"
    # `usage` counts tokens at OpenAI. Its client expects the field; a diffusion model has no tokens to count.
    more = {"partial_image_index": item.index} if isinstance(item, PartialImage) else {"usage": None}
    return _sse(kind, {"type": kind, "b64_json": _base64(image.data), "created_at": int(time.time()),
                       "quality": job.request.openai_quality, "image_index": index,
                       "seed": job.tasks[index].request.seed, **_image_facts(job.request, image), **more})  # fmt: skip


def _image_facts(request: ImageRequest, image: OutputImage) -> dict[str, Any]:
    """Return the response fields that describe the images."""
    facts = {
        "background": "transparent" if image.transparent else "opaque",
        "output_format": request.output_format,
        "size": image.size,
    }
    return facts | ({"safety_identifier": request.safety_identifier} if request.safety_identifier else {})


def _sse(event: str, data: Mapping[str, Any]) -> bytes:
    """Encode one server-sent event (HTML Living Standard, section 9.2)."""
    return f"event: {event}\ndata: {json.dumps(data)}\n\n".encode()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
