"""OpenAPI schemas of responses, and of the bodies of routes that parse them themselves.

`/v1/images/*` read their bodies without FastAPI, for size limits and OpenAI's error shape. FastAPI therefore cannot
derive their schemas; `GENERATIONS` and `EDITS` supply them.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from emoji_ldm.serve.edit_requests import EditRequest, VariationRequest
from emoji_ldm.serve.image_requests import ImageRequest


class ApiModel(BaseModel):
    """Base class of the response schemas; attribute docstrings become descriptions."""

    # The descriptions then stand beside the fields, and are the only place where they are written.
    model_config = ConfigDict(use_attribute_docstrings=True)


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of a body, with nested models in place: a `$ref` of pydantic's would lead out of the body."""
    schema = model.model_json_schema()
    nested = schema.pop("$defs", {})

    def inline(value: Any) -> Any:
        if isinstance(value, list):
            return [inline(each) for each in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            return inline(nested[value["$ref"].rpartition("/")[2]])
        return {name: inline(each) for name, each in value.items()}

    inlined: dict[str, Any] = inline(schema)
    return inlined


class ImageObject(ApiModel):
    """One image."""

    b64_json: str | None = None
    """The file in base64 ..."""
    url: str | None = None
    """... or, with `response_format=url`, a link to it that is valid for an hour."""
    seed: int
    """The same request with this seed gives this image again."""


class ImagesResponse(ApiModel):
    """The response of both image routes."""

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
    """As requested, unless `auto`."""
    safety_identifier: str | None = None
    """As sent."""


ErrorType = Literal["invalid_request_error", "authentication_error", "permission_error", "not_found_error",
                    "rate_limit_error", "server_error"]  # fmt: skip


class ErrorDetail(ApiModel):
    """What went wrong."""

    message: str
    type: ErrorType
    param: str | None
    """The field to change."""
    code: str | None
    """What programs may tell errors of one type apart by."""


class ErrorResponse(ApiModel):
    """The response to a request that is refused or fails."""

    error: ErrorDetail


class ModelCard(ApiModel):
    """A model and what it accepts."""

    id: str
    object: str
    created: int
    """Unix time at which this service started to offer it."""
    owned_by: str
    key: str
    """Hash of everything that determines its pixels."""
    size: str
    """The size that `auto` stands for."""
    side_step: int
    """Both sides are multiples of this many pixels ..."""
    max_side: int
    """... and at most this long."""
    max_images: int
    max_steps: int
    schedulers: list[str]
    """The first one is the default."""
    loras: list[str]


class ModelList(ApiModel):
    """All models."""

    object: str
    data: list[ModelCard]


EVENTS = (
    "server-sent events with `stream`: `image_generation.partial_image` and `image_generation.completed` "
    "(`image_edit.*` for edits), and `error` for a failure after the first event"
)
# For every route.
ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorResponse, "description": "Refused"},
    "5XX": {"model": ErrorResponse, "description": "Failed, or overloaded"},
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "A field or the body is refused"},
    401: {"model": ErrorResponse, "description": "The key is missing or unknown"},
    403: {"model": ErrorResponse, "description": "The key's scopes do not allow it"},
    404: {"model": ErrorResponse, "description": "There is no such model"},
    408: {"model": ErrorResponse, "description": "The body arrived too slowly"},
    413: {"model": ErrorResponse, "description": "The body is too long"},
    429: {"model": ErrorResponse, "description": "The key's quota is exhausted; Retry-After says for how long"},
    500: {"model": ErrorResponse, "description": "Internal error"},
    503: {
        "model": ErrorResponse,
        "description": "The service is overloaded; Retry-After says when to try again",
    },
    504: {"model": ErrorResponse, "description": "The image was not generated in time"},
}


def _operation(media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    # FastAPI merges `openapi_extra` into what it derives itself, which has no body, since the routes take a plain
    # Request.
    content = {media_type: {"schema": schema}}
    success = {"description": f"The images; or {EVENTS}", "model": ImagesResponse}
    return {"responses": {200: success, **REFUSALS},
            "openapi_extra": {"requestBody": {"content": content, "required": True}}}  # fmt: skip


def _edit_form(request: type[EditRequest]) -> dict[str, Any]:
    """Return the schema of an edit's form: the text fields, and the files, which the request does not contain."""
    # JSON Schema has no type for files. OpenAPI 3.1 describes a part of a form as a string in binary format.
    schema = request.model_json_schema()
    image = "PNG, JPEG, WebP or GIF to start from; fitted into the size."
    mask = "As large as `image`. Its transparent part is regenerated; of a mask without alpha channel, the white part."
    files = {name: {"type": "string", "format": "binary", "description": text}
             for name, text in (("image", image), ("mask", mask))}  # fmt: skip
    # Files first: the image is what an edit is about, and the page shows fields in this order.
    properties = {**files, **schema["properties"]}
    return {**schema, "properties": properties, "required": ["image", *schema.get("required", ())]}


GENERATIONS = _operation("application/json", ImageRequest.model_json_schema())
EDITS = _operation("multipart/form-data", _edit_form(EditRequest))
VARIATIONS = _operation("multipart/form-data", _edit_form(VariationRequest))
