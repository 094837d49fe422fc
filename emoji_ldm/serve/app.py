"""The HTTP application over anything that can draw: Ray Serve in production, a plain object in tests."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse

from emoji_ldm import __version__
from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.serve import image_routes, openapi_models
from emoji_ldm.serve.auth import ApiKeyCache, AuthMiddleware
from emoji_ldm.serve.backend import Backend, RequestLimits
from emoji_ldm.serve.docs_page import render_docs
from emoji_ldm.serve.errors import RequestError, add_error_handlers
from emoji_ldm.serve.request_middleware import RequestMiddleware

ABOUT = """Emoji from prompts, in the shape of OpenAI's Images API: the official clients need only another `base_url`.

Every picture has a seed, which its answer tells: the same request with that seed gives the same picture.
"""


def build_api(
    backend: Backend,
    settings: ServeConfig = ServeConfig(),  # noqa: B008 - frozen
    *,
    routers: Iterable[APIRouter] = (),
    tells_id: bool = True,
) -> FastAPI:
    """The application.

    Args:
        backend: Who draws.
        settings: Keys, web origins, how long a request may take.
        routers: More routes, behind the same door: `request.state.caller` is who asks.
        tells_id: Whether answers carry `x-request-id`; not behind a proxy that adds it, as Ray Serve's does.

    Raises:
        ConfigError: There is no such file of keys.
    """
    api = FastAPI(title="emoji_ldm", version=__version__, description=ABOUT, docs_url=None, redoc_url=None)
    add_error_handlers(api)
    for router in (image_routes.routes(backend, settings), service_routes(backend), *routers):
        api.include_router(router, responses=openapi_models.ERRORS)
    # The last is the outermost: a page of another origin may read refusals of the door too.
    api.add_middleware(
        AuthMiddleware, keys=ApiKeyCache(settings.keys) if settings.keys else None, origins=settings.cors_origins
    )
    if settings.cors_origins:
        api.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after"],
        )
    api.add_middleware(RequestMiddleware, tells_id=tells_id)
    return api


def service_routes(backend: Backend) -> APIRouter:
    """The routes that say what there is."""
    router, began = APIRouter(tags=["service"]), int(time.time())

    @router.get("/v1/models", response_model=openapi_models.ModelList)
    async def models() -> dict[str, Any]:
        """The models, the default one first."""
        return {"object": "list", "data": [_model(limits, began) for limits in (await backend.models()).values()]}

    @router.get(
        "/v1/models/{model:path}",
        response_model=openapi_models.ModelCard,
        responses={404: openapi_models.REFUSALS[404]},
    )
    async def model(model: str) -> dict[str, Any]:
        """One model."""
        known = await backend.models()
        if model not in known:
            raise RequestError(f"there is no model {model!r}; this service has {', '.join(map(repr, known))}",
                               status=404, param="model", code="model_not_found")  # fmt: skip
        return _model(known[model], began)

    @router.get("/health", responses={503: {"description": "It is starting"}})
    async def health() -> JSONResponse:
        """Whether a request would be answered without waiting for a start."""
        ready = await backend.ready()
        return JSONResponse({"status": "ok" if ready else "starting"}, 200 if ready else 503)

    @router.get("/docs", include_in_schema=False)
    async def documentation(request: Request) -> HTMLResponse:
        """All routes, for people."""
        return HTMLResponse(render_docs(request.app.openapi()))

    return router


def _model(limits: RequestLimits, began: int) -> dict[str, Any]:
    return {
        "id": limits.model, "object": "model", "created": began, "owned_by": "emoji_ldm", "key": limits.model_key,
        "size": f"{limits.width_px}x{limits.height_px}", "side_step": limits.side_step_px,
        "max_side": limits.max_side_px, "max_images": limits.max_images, "max_steps": limits.max_steps,
        "schedulers": limits.schedulers, "loras": limits.loras,
    }  # fmt: skip
