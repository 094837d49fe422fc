"""The routes that generate images, `/v1/images/generations`, `edits` and `variations`: they read and check requests.

`image_service` makes the responses.
"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from emoji_ldm.serve import openapi_models
from emoji_ldm.serve.edit_requests import EditRequest, VariationRequest, read_form
from emoji_ldm.serve.image_service import ImageService
from emoji_ldm.serve.request_body import read_body
from emoji_ldm.serve.request_validation import parse_request

MAX_BODY_BYTES = 256 * 1024  # two prompts of 4,000 emoji, each escaped as \\ud83d\\ude00 (12 bytes), and the rest


def image_routes(service: ImageService) -> APIRouter:
    """Build the routes over a service."""
    router = APIRouter(tags=["images"])

    @router.post("/v1/images/generations", response_model=None, **openapi_models.GENERATIONS)
    async def generations(request: Request) -> Response:
        """Generate images from a prompt."""
        body = await read_body(request, MAX_BODY_BYTES)
        models = await service.models()
        parsed = parse_request(body, models)
        limits = models[parsed.model]
        return await service.answer(
            request, parsed, lambda seed: parsed.generation_requests(seed, limits), [b"generations", body]
        )

    @router.post("/v1/images/edits", response_model=None, **openapi_models.EDITS)
    async def edits(request: Request) -> Response:
        """Generate images that start from an uploaded one; with a mask, only the masked part changes."""
        return await from_image(request, EditRequest)

    @router.post("/v1/images/variations", response_model=None, **openapi_models.VARIATIONS)
    async def variations(request: Request) -> Response:
        """Generate images that resemble an uploaded one, without a prompt."""
        return await from_image(request, VariationRequest)

    async def from_image(request: Request, schema: type[EditRequest]) -> Response:
        form = await read_form(request)
        models = await service.models()
        edit = form.validate(models, schema)
        limits = models[edit.request.model]
        # Last, since it takes the most time: a form that is refused anyway is refused before.
        prepared = await edit.prepared(limits)
        return await service.answer(
            request, edit.request, lambda seed: prepared.generation_requests(seed, limits), form.parts(schema)
        )

    return router
