"""The HTTP application over any `Backend`: Ray Serve replicas in production, a fake in tests.

RequestMiddleware -> HeadMiddleware -> HostMiddleware -> CORSMiddleware -> AuthMiddleware -> routes -> Backend
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse

from emoji_ldm import __version__
from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.serve import openapi_models
from emoji_ldm.serve.auth import ApiKeyCache, AuthMiddleware
from emoji_ldm.serve.backend import Backend, RequestLimits
from emoji_ldm.serve.docs_page import render_docs
from emoji_ldm.serve.errors import RequestError, add_error_handlers
from emoji_ldm.serve.head_requests import HeadMiddleware
from emoji_ldm.serve.host_check import HostMiddleware, is_loopback
from emoji_ldm.serve.image_routes import image_routes
from emoji_ldm.serve.image_service import ImageService
from emoji_ldm.serve.openapi_document import complete_openapi
from emoji_ldm.serve.pack_routes import pack_routes
from emoji_ldm.serve.request_middleware import RequestMiddleware
from emoji_ldm.serve.state.idempotency import RepeatedRequests
from emoji_ldm.serve.state.image_links import ImageLinks, link_routes
from emoji_ldm.serve.usage_routes import usage_routes
from emoji_ldm.store import Store

DESCRIPTION = """Emoji from prompts, in the shape of OpenAI's Images API: the official clients need only a `base_url`.

Every response contains the seed of each image; the same request with that seed gives the same image.
"""


def build_api(
    backend: Backend,
    settings: ServeConfig = ServeConfig(),  # noqa: B008 - frozen
    *,
    routers: Iterable[APIRouter] = (),
    adds_request_id: bool = True,
    store: Store | None = None,
    hosts: Collection[str] | None = None,
) -> FastAPI:
    """Build the application.

    Args:
        backend: Generates the images.
        settings: Keys, allowed web origins, timeouts.
        routers: Further routes behind the same authentication; `request.state.caller` is the authenticated caller.
        store: Where quotas are counted, and linked images and repeated requests are kept; None counts in this process
            alone, and has neither links nor idempotency keys.
        hosts: Names that requests may call the service by; None for any.
        adds_request_id: Whether responses carry `x-request-id`; False behind a proxy that adds it, such as Ray Serve's.

    Raises:
        ConfigError: The key file does not exist, or is not one.
    """
    # FastAPI's own pages /docs and /redoc load their scripts from a CDN; docs_page.py works offline.
    # Without FastAPI's own spans, whose parent would be the caller and not Ray Serve's proxy; see tracing.py.
    api = FastAPI(title="emoji_ldm", version=__version__, description=DESCRIPTION, docs_url=None, redoc_url=None,
                  telemetry={"tracing": False, "metrics": False, "logs": False})  # fmt: skip
    add_error_handlers(api)
    links = ImageLinks(store) if store else None
    repeated = RepeatedRequests(store, settings.timeout_s) if store else None
    images = image_routes(ImageService(backend, settings, links, repeated))
    linked = [link_routes(links)] if links else []
    for router in (images, *linked, pack_routes(), service_routes(backend), usage_routes(), *routers):
        api.include_router(router, responses=openapi_models.ERRORS)
    complete_openapi(api, needs_keys=bool(settings.keys))
    # The middleware added last is the outermost one. CORS lies outside of authentication, so that the scripts of an
    # allowed web page can read a 401 as well.
    keys = ApiKeyCache(settings.keys, f"{store.uri}/keys/usage" if store else None) if settings.keys else None
    is_private = is_loopback(settings.host)
    api.add_middleware(AuthMiddleware, keys=keys, origins=settings.cors_origins, is_private=is_private)
    if settings.cors_origins:
        api.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after"],
        )
    if hosts is not None:
        api.add_middleware(HostMiddleware, hosts=hosts)
    api.add_middleware(HeadMiddleware)
    api.add_middleware(RequestMiddleware, adds_request_id=adds_request_id)
    return api


def service_routes(backend: Backend) -> APIRouter:
    """Build the routes that describe the service: models, health, documentation."""
    # OpenAI reports when a model was created. Ours reports since when this process offers it, which needs no store.
    router, started_at = APIRouter(tags=["service"]), int(time.time())

    @router.get("/v1/models", response_model=openapi_models.ModelList)
    async def models() -> dict[str, Any]:
        """All models, the default one first."""
        limits = (await backend.models()).values()
        return {"object": "list", "data": [_model_card(each, started_at) for each in limits]}

    @router.get(
        # The converter `path` lets names contain slashes, as those of Hugging Face do.
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
        return _model_card(known[model], started_at)

    @router.get("/health", responses={503: {"description": "The service is starting"}})
    async def health() -> JSONResponse:
        """Whether a request would be served without waiting for a replica to start."""
        ready = await backend.ready()
        # 503 makes a load balancer keep a replica out of rotation until its model is loaded.
        return JSONResponse({"status": "ok" if ready else "starting"}, 200 if ready else 503)

    @router.get("/docs", include_in_schema=False)
    async def documentation(request: Request) -> HTMLResponse:
        """The documentation page."""
        return HTMLResponse(render_docs(request.app.openapi()))

    return router


def _model_card(limits: RequestLimits, created: int) -> dict[str, Any]:
    return {
        "id": limits.model, "object": "model", "created": created, "owned_by": "emoji_ldm", "key": limits.model_key,
        "size": f"{limits.width_px}x{limits.height_px}", "side_step": limits.side_step_px,
        "max_side": limits.max_side_px, "max_images": limits.max_images, "max_steps": limits.max_steps,
        "schedulers": limits.schedulers, "loras": limits.loras,
    }  # fmt: skip
