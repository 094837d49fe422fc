"""The routes that draw: `/v1/images/generations` and `/v1/images/edits`, whole answers and streams."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.serve import openapi_models
from emoji_ldm.serve.auth import Caller
from emoji_ldm.serve.backend import Backend, ImageTask, PartialImage, RequestLimits
from emoji_ldm.serve.edit_requests import read_form
from emoji_ldm.serve.errors import LOG, to_request_error
from emoji_ldm.serve.fan_out import InputImageBudget, draw_all, stream_all
from emoji_ldm.serve.image_encoding import OutputImage, convert, in_image_thread
from emoji_ldm.serve.image_requests import ImageRequest, parse_request
from emoji_ldm.serve.request_body import read_body

MAX_BODY_BYTES = 256 * 1024  # two prompts of emoji, each written as \\ud83d\\ude00, and room
NUM_SEEDS = 2**31


@dataclass(frozen=True)
class ImageJob:
    """What one request asks for; the seeds are settled, so that drawing a part of it again gives the same."""

    family: str  # of the stream's events
    request: ImageRequest
    wishes: Sequence[ImageTask]


def routes(backend: Backend, settings: ServeConfig) -> APIRouter:
    """The routes over whoever draws."""
    router, studio = APIRouter(tags=["images"]), ImageService(backend, settings)

    @router.post("/v1/images/generations", response_model=None, **openapi_models.GENERATIONS)
    async def generations(request: Request) -> Response:
        """Draw pictures from a prompt."""
        body = await read_body(request, MAX_BODY_BYTES)
        models = await studio.models()
        wanted = parse_request(body, models)
        draws = wanted.draws(_first_seed(wanted), models[wanted.model])
        return await studio.respond(request, studio.order(request, "image_generation", wanted, draws))

    @router.post("/v1/images/edits", response_model=None, **openapi_models.EDITS)
    async def edits(request: Request) -> Response:
        """Draw pictures that start from one; with a mask, only where that says so."""
        form = await read_form(request)
        models = await studio.models()
        edit = form.edit(models)
        draws = edit.draws(_first_seed(edit.request), models[edit.request.model])
        return await studio.respond(request, studio.order(request, "image_edit", edit.request, draws))

    return router


@dataclass(frozen=True)
class ImageService:
    """Gets orders drawn."""

    backend: Backend
    settings: ServeConfig
    room: InputImageBudget = field(default_factory=InputImageBudget)

    async def models(self) -> Mapping[str, RequestLimits]:
        """The models; TimeoutError if none can be had in time."""
        async with asyncio.timeout(self.settings.timeout_s):
            return await self.backend.models()

    def order(
        self, request: Request, family: str, wanted: ImageRequest, draws: Sequence[GenerationRequest]
    ) -> ImageJob:
        """The order of who asks; the log is told what it is."""
        label = wanted.safety_identifier or wanted.user
        facts = {"model": wanted.model, "n": wanted.n, "steps": draws[0].steps, "user": label}
        prompt = {"prompt": wanted.prompt} if self.settings.log_prompts else {}
        request.state.facts.update(facts | prompt)
        tenant, patience_s = request.state.caller.name, self.settings.timeout_s
        wishes = [
            ImageTask(wanted.model, draw, tenant, timeout_s=patience_s, request_id=request.state.id) for draw in draws
        ]
        return ImageJob(family, wanted, wishes)

    async def respond(self, request: Request, order: ImageJob) -> Response:
        """The pictures, or a stream whose first event is there; what fails before that is not charged."""
        caller: Caller = request.state.caller
        caller.charge(len(order.wishes))
        try:
            if order.request.stream:
                events = _events(self, order)
                return EventStream(await anext(events), events)
            with self.room.taken(order.wishes):
                drawn = await draw_all(self.backend, order.wishes)
            pictures = await _converted(order, drawn)
        except Exception:
            caller.refund(len(order.wishes))
            raise
        return JSONResponse(response_body(order.request, order.wishes[0].draw.seed, pictures))


def response_body(request: ImageRequest, seed: int, pictures: Mapping[int, OutputImage]) -> dict[str, Any]:
    """The body of a whole answer.

    Args:
        request: What was asked for.
        seed: Of picture 0.
        pictures: Files by the image's number.
    """
    quality = {} if request.level == "auto" else {"quality": request.level}
    data = [{"b64_json": _base64(pictures[index].data), "seed": seed + index} for index in sorted(pictures)]
    told = {**quality, **_image_facts(request, pictures[0])}
    return {"created": int(time.time()), "model": request.model, "data": data, **told}


async def _converted(order: ImageJob, pngs: Mapping[int, bytes]) -> dict[int, OutputImage]:
    made = await asyncio.gather(*(in_image_thread(convert, png, order.request.output) for png in pngs.values()))
    return dict(zip(pngs, made, strict=True))


async def _events(studio: ImageService, order: ImageJob) -> AsyncGenerator[bytes, None]:
    """The stream's events; a problem after the first is the last of them, one before it is raised."""
    begun = False
    try:
        with studio.room.taken(order.wishes):
            async with aclosing(stream_all(studio.backend, order.wishes, order.request.partial_images)) as ready:
                async for found in ready:
                    chunk = await _event(order, *found) if found else b": still drawing\n\n"
                    begun = True
                    yield chunk
    except Exception as error:
        if not begun:
            raise
        known = to_request_error(error)
        if known.code == "crash":
            LOG.exception("request %s failed", order.wishes[0].request_id)
        yield _sse("error", {"type": "error", **known.body()})


async def _event(order: ImageJob, index: int, item: PartialImage | bytes) -> bytes:
    png, name = (item.png, "partial_image") if isinstance(item, PartialImage) else (item, "completed")
    picture = await in_image_thread(convert, png, order.request.output)
    kind = f"{order.family}.{name}"
    more = {"partial_image_index": item.index} if isinstance(item, PartialImage) else {"usage": None}  # no tokens here
    return _sse(kind, {"type": kind, "b64_json": _base64(picture.data), "created_at": int(time.time()),
                       "quality": order.request.level, "image_index": index, "seed": order.wishes[index].draw.seed,
                       **_image_facts(order.request, picture), **more})  # fmt: skip


class EventStream(Response):
    """Server-sent events; whatever ends the answer also ends what makes them."""

    media_type = "text/event-stream"

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes, None]) -> None:
        """Take the first event, which is ready, and those to come."""
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.first, self.rest = first, rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self.first, "more_body": True})
            async for chunk in self.rest:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await self.rest.aclose()


def _first_seed(request: ImageRequest) -> int:
    """The first seed, settled here and once: whatever happens to a draw later, drawing it again gives the same."""
    return secrets.randbelow(NUM_SEEDS) if request.seed is None else request.seed


def _image_facts(request: ImageRequest, picture: OutputImage) -> dict[str, Any]:
    """What an answer says of its pictures."""
    told = {
        "background": "transparent" if picture.transparent else "opaque",
        "output_format": request.output_format,
        "size": picture.size,
    }
    return told | ({"safety_identifier": request.safety_identifier} if request.safety_identifier else {})


def _sse(event: str, data: Mapping[str, Any]) -> bytes:
    return f"event: {event}\ndata: {json.dumps(data)}\n\n".encode()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
