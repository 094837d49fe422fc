"""The schemas that `/docs` shows of routes that read their bodies themselves."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from emoji_ldm.serve.edit_requests import EditRequest
from emoji_ldm.serve.image_requests import ImageRequest


class ApiModel(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class ImageObject(ApiModel):
    """One picture."""

    b64_json: str
    """The file in base64."""
    seed: int
    """With which the same request gives this picture again."""


class ImagesResponse(ApiModel):
    """The answer of both routes."""

    created: int
    """Unix time."""
    model: str
    data: list[ImageObject]
    background: str
    """`transparent` if the files have an alpha channel, else `opaque`."""
    output_format: str
    size: str
    """`WIDTHxHEIGHT`."""
    quality: str | None = None
    """As asked for, unless `auto`."""
    safety_identifier: str | None = None
    """As sent."""


class ErrorDetail(ApiModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    """The field to change."""
    code: str | None


class ErrorResponse(ApiModel):
    """The answer to what is refused or fails."""

    error: ErrorDetail


class ModelCard(ApiModel):
    """A model and what it allows."""

    id: str
    object: str
    created: int
    """Since when this service offers it; Unix time."""
    owned_by: str
    key: str
    """Hash of what decides its pixels."""
    size: str
    """What `auto` means."""
    side_step: int
    """Sides are multiples of this ..."""
    max_side: int
    """... up to this, in pixels."""
    max_images: int
    max_steps: int
    schedulers: list[str]
    """The first is the default."""
    loras: list[str]


class ModelList(ApiModel):
    """All models."""

    object: str
    data: list[ModelCard]


EVENTS = (
    "server-sent events with `stream`: `image_generation.partial_image` and `image_generation.completed` "
    "(`image_edit.*` for edits), and `error` for what goes wrong after the first"
)
ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorResponse, "description": "Refused"},
    "5XX": {"model": ErrorResponse, "description": "Failed, or too busy"},
}  # of every route
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "A field or the body is refused"},
    401: {"model": ErrorResponse, "description": "No key, or one that is not known"},
    403: {"model": ErrorResponse, "description": "A key for jobs only"},
    404: {"model": ErrorResponse, "description": "No such model"},
    408: {"model": ErrorResponse, "description": "The body came too slowly"},
    413: {"model": ErrorResponse, "description": "The body is too long"},
    429: {"model": ErrorResponse, "description": "The key's quota is used up; Retry-After says for how long"},
    500: {"model": ErrorResponse, "description": "A fault of the service"},
    503: {
        "model": ErrorResponse,
        "description": "Too much is asked of the service; Retry-After says when to come back",
    },
    504: {"model": ErrorResponse, "description": "Not drawn in time"},
}


def _body(media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    content = {media_type: {"schema": schema}}
    drawn = {"description": f"The pictures; or {EVENTS}", "model": ImagesResponse}
    return {"responses": {200: drawn, **REFUSALS},
            "openapi_extra": {"requestBody": {"content": content, "required": True}}}  # fmt: skip


def _form() -> dict[str, Any]:
    schema = EditRequest.model_json_schema()
    image = "PNG, JPEG, WebP or GIF to start from; fitted into the size."
    mask = "As large as `image`: clear, or if it has no alpha channel white, where that is drawn anew."
    files = {name: {"type": "string", "format": "binary", "description": text}
             for name, text in (("image", image), ("mask", mask))}  # fmt: skip
    properties = {**files, **schema["properties"]}
    return {**schema, "properties": properties, "required": ["image", *schema["required"]]}


GENERATIONS = _body("application/json", ImageRequest.model_json_schema())
EDITS = _body("multipart/form-data", _form())
