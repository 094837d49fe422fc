"""The HTTP routes over anything that can draw: Ray Serve in production, a plain object in tests."""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections.abc import Coroutine
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from emoji_ldm import __version__
from emoji_ldm.serve.schema import ImageRequest, Limits, RequestError, Row, parse_request

RETRY_AFTER_S = 1
MAX_BODY_BYTES = 64 * 1024


class Overloaded(Exception):
    """More waits to be drawn than may wait."""


class Backend(Protocol):
    """What the routes need."""

    async def limits(self) -> Limits:
        """What may be asked for; waits for a model if none is loaded yet."""
        ...

    def draw(self, row: Row) -> Coroutine[Any, Any, bytes]:
        """PNG bytes of one image; raises Overloaded."""
        ...

    async def ready(self) -> bool:
        """Whether a request would be answered without waiting for a start; quick."""
        ...


def build_api(backend: Backend) -> FastAPI:
    """The application: images, models, health, and every error in OpenAI's shape."""
    api = FastAPI(title="emoji_ldm", version=__version__)
    api.add_exception_handler(RequestError, _answer_request_error)
    api.add_exception_handler(HTTPException, _answer_http_error)
    api.add_exception_handler(Overloaded, _answer_overload)
    api.add_exception_handler(Exception, _answer_crash)
    schema = {"content": {"application/json": {"schema": ImageRequest.model_json_schema()}}, "required": True}

    @api.post("/v1/images/generations", openapi_extra={"requestBody": schema})
    async def generations(request: Request) -> dict[str, Any]:
        wanted = parse_request(await _body(request), await backend.limits())
        # Fixed here, once: whatever happens to a draw later, drawing it again gives the same picture.
        seed = secrets.randbelow(2**31) if wanted.seed is None else wanted.seed
        rows = wanted.rows(seed)
        pngs = await _all([backend.draw(row) for row in rows])
        data = [{"b64_json": base64.b64encode(png).decode(), "seed": row["seed"]}
                for png, row in zip(pngs, rows, strict=True)]  # fmt: skip
        return {"created": int(time.time()), "data": data}

    @api.get("/v1/models")
    async def models() -> dict[str, Any]:
        limits = await backend.limits()
        return {"object": "list", "data": [{"id": limits.model, "object": "model", "owned_by": "emoji_ldm",
                                            "size": f"{limits.size_px}x{limits.size_px}"}]}  # fmt: skip

    @api.get("/health")
    async def health() -> JSONResponse:
        ready = await backend.ready()
        return JSONResponse({"status": "ok" if ready else "starting"}, 200 if ready else 503)

    return api


async def _all(draws: list[Coroutine[Any, Any, bytes]]) -> list[bytes]:
    """Every picture, or the first problem; what is still waiting then is given up."""
    tasks = [asyncio.create_task(draw) for draw in draws]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _body(request: Request) -> bytes:
    """The body, refused as soon as it is too long."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise RequestError(f"the body is longer than {MAX_BODY_BYTES} bytes", status=413)
        parts.append(part)
    return b"".join(parts)


async def _answer_request_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestError)
    return JSONResponse(error.body(), error.status)


async def _answer_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    known = "POST /v1/images/generations, GET /v1/models, GET /health"
    message = f"{request.method} {request.url.path}: {error.detail}; this service answers {known}"
    return JSONResponse(RequestError(message, status=error.status_code).body(), error.status_code)


async def _answer_overload(_: Request, error: Exception) -> JSONResponse:
    busy = RequestError(f"too many images are waiting; try again in {RETRY_AFTER_S} s", status=503, code="overloaded")
    return JSONResponse(busy.body(), 503, headers={"Retry-After": str(RETRY_AFTER_S)})


async def _answer_crash(_: Request, error: Exception) -> JSONResponse:
    """The log of the service holds the stack trace; the client learns only that it may try again."""
    return JSONResponse(RequestError("the service failed to draw this; try again", status=500).body(), 500)
