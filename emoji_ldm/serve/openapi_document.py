"""The OpenAPI text: what FastAPI derives from the routes, and what it cannot know: keys, examples, headers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from emoji_ldm.serve.auth import PUBLIC_PATHS
from emoji_ldm.serve.state.image_links import LINKS_PREFIX

BEARER = {"type": "http", "scheme": "bearer", "description": "A key that `emoji-ldm keys add NAME` made: sk-emoji-..."}
RETRY_AFTER = {"Retry-After": {"description": "Seconds until a new try makes sense", "schema": {"type": "integer"}}}
RETRYABLE = ("429", "503", "504")
IDEMPOTENCY = {
    "name": "Idempotency-Key", "in": "header", "required": False,
    "schema": {"type": "string", "maxLength": 255},
    "description": "A second request with the same key gets the response of the first and is not charged again.",
}  # fmt: skip
KEYED_PATHS = ("/v1/images/generations", "/v1/images/edits", "/v1/images/variations", "/v1/files", "/v1/emoji-sets",
               "/v1/batches")  # fmt: skip
# By the path of a POST with a JSON body.
EXAMPLES: dict[str, Any] = {
    "/v1/images/generations": {"prompt": "a happy blob", "n": 2, "seed": 7, "background": "transparent",
                               "num_inference_steps": 20},
    "/v1/emoji-sets": {"prompts": ["a happy blob", "a green cat"], "styles": ["{prompt}, flat style"], "n": 4},
    "/v1/batches": {"input_file_id": "file-0123456789abcdef0123456789abcdef", "endpoint": "/v1/images/generations",
                    "completion_window": "24h"},
}  # fmt: skip
ERROR_EXAMPLES: dict[str, tuple[str, str, str | None, str | None]] = {
    "400": ("num_inference_steps=500 is refused: at most 200", "invalid_request_error", "num_inference_steps", None),
    "401": ("this key is unknown", "authentication_error", None, "invalid_api_key"),
    "403": ("the key 1a2b3c4d of 'web' is for read only; this needs images", "permission_error", None,
            "insufficient_permissions"),
    "404": ("there is no model 'dall-e-3'; this service has 'default'", "not_found_error", "model", "model_not_found"),
    "429": ("the key 'web' may generate 60 images per minute; try again in 12 s, at 2027-01-31T10:00:00Z",
            "rate_limit_error", None, "rate_limit_exceeded"),
    "503": ("the service is overloaded; try again in 2 s", "server_error", None, "overloaded"),
    "504": ("the image was not generated in time; try again in 5 s", "server_error", None, "timeout"),
}  # fmt: skip


def complete_openapi(api: FastAPI, *, needs_keys: bool) -> None:
    """Let the application's OpenAPI text say whether it needs keys, and show examples."""
    derived: Callable[[], dict[str, Any]] = api.openapi

    def completed() -> dict[str, Any]:
        if api.openapi_schema:
            return api.openapi_schema
        text = derived()
        if needs_keys:
            text.setdefault("components", {})["securitySchemes"] = {"key": BEARER}
        for path, operations in text["paths"].items():
            for method, operation in operations.items():
                is_public = path in PUBLIC_PATHS or path.startswith(LINKS_PREFIX)
                if needs_keys and not is_public:
                    operation["security"] = [{"key": []}]
                _complete(operation, path if method == "post" else "")
        return text

    # The way that FastAPI documents for this ("Extending OpenAPI").
    api.openapi = completed  # type: ignore[method-assign]


def _complete(operation: dict[str, Any], posted: str) -> None:
    """Add examples and headers; `posted` is the path of a POST, else empty."""
    if posted in KEYED_PATHS:
        operation.setdefault("parameters", []).append(IDEMPOTENCY)
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if body is not None and posted in EXAMPLES:
        body["example"] = EXAMPLES[posted]
    for status, response in operation.get("responses", {}).items():
        if status in RETRYABLE:
            response["headers"] = RETRY_AFTER
        if status in ERROR_EXAMPLES and (content := response.get("content", {}).get("application/json")) is not None:
            names = ("message", "type", "param", "code")
            content["example"] = {"error": dict(zip(names, ERROR_EXAMPLES[status], strict=True))}
