"""Requests and answers of `POST /v1/images/generations`, as the official OpenAI client writes and reads them.

`seed`, `negative_prompt`, `num_inference_steps` (or `steps`) and `guidance_scale` are this
service's own additions, under the names that diffusers uses.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

MAX_SEED = 2**63 - 1
Row = dict[str, Any]  # the fields of emoji_ldm.generate.sampler.Draw, which would load torch


@dataclass(frozen=True)
class Limits:
    """What the loaded model and the configuration allow."""

    model: str  # the model's name
    size_px: int
    max_images: int
    max_steps: int


class RequestError(Exception):
    """A request that is answered with an error; `str()` is the message."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        """Keep what the body of the answer says."""
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        """The answer in OpenAI's shape."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class ImageRequest(BaseModel):
    """The body of `POST /v1/images/generations`."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    prompt: Annotated[str, Field(min_length=1, max_length=4000)]
    """What to draw."""
    model: str | None = None
    """Name of the model as `GET /v1/models` gives it; optional."""
    n: Annotated[int, Field(ge=1)] = 1
    """Images, with seeds `seed`, `seed` + 1, ..."""
    size: str = "auto"
    """`WIDTHxHEIGHT` of the model, or `auto`."""
    response_format: Literal["b64_json"] = "b64_json"
    """PNG bytes in base64."""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    """First seed; chosen by chance and told in the answer if absent."""
    num_inference_steps: Annotated[
        int, Field(ge=1, validation_alias=AliasChoices("num_inference_steps", "steps"))
    ] = 30  # fmt: skip
    """Denoising steps; `steps` means the same."""
    guidance_scale: Annotated[float, Field(ge=1, le=50, allow_inf_nan=False)] = 3.0
    """Classifier-free guidance; 1 turns it off."""
    negative_prompt: Annotated[str, Field(max_length=4000)] = ""
    """What to steer away from."""
    user: str | None = None
    """A label of yours for the end user; not used."""

    def rows(self, seed: int) -> list[Row]:
        """One draw per image."""
        return [
            {"prompt": self.prompt, "negative_prompt": self.negative_prompt, "seed": seed + index,
             "steps": self.num_inference_steps, "guidance_scale": self.guidance_scale}
            for index in range(self.n)
        ]  # fmt: skip


KNOWN = [*ImageRequest.model_fields, "steps"]


def parse_request(body: bytes, limits: Limits) -> ImageRequest:
    """The request in a body.

    Raises:
        RequestError: The body is not JSON, a field is unknown or refused, or the model does not allow it.
    """
    try:
        values = json.loads(body)
    except ValueError as error:
        raise RequestError(f"the body is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise RequestError('the body must be a JSON object such as {"prompt": "a happy blob"}')
    try:
        request = ImageRequest.model_validate(values)
    except ValidationError as error:
        raise _explained(error) from None
    _check(request, limits)
    return request


def _check(request: ImageRequest, limits: Limits) -> None:
    size = f"{limits.size_px}x{limits.size_px}"
    if request.model not in (None, limits.model):
        raise RequestError(f"there is no model {request.model!r}; this service has {limits.model!r}",
                           status=404, param="model", code="model_not_found")  # fmt: skip
    if request.size not in ("auto", size):
        raise RequestError(f"size {request.size!r} is refused: this model draws {size} (or 'auto')", param="size")
    if request.n > limits.max_images:
        raise RequestError(f"n={request.n} is refused: at most {limits.max_images} images per request", param="n")
    if request.num_inference_steps > limits.max_steps:
        raise RequestError(f"num_inference_steps={request.num_inference_steps} is refused: at most {limits.max_steps}",
                           param="num_inference_steps")  # fmt: skip
    if request.seed is not None and request.seed + request.n - 1 > MAX_SEED:
        raise RequestError(f"seed {request.seed} is too large for {request.n} images", param="seed")


def _explained(error: ValidationError) -> RequestError:
    """The first problem, in words."""
    problem = error.errors()[0]
    field = str(problem["loc"][0]) if problem["loc"] else None
    if problem["type"] == "missing":
        return RequestError(f"the field {field!r} is missing", param=field, code="missing_required_parameter")
    if problem["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(field), KNOWN, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"known fields: {', '.join(KNOWN)}"
        return RequestError(f"unknown field {field!r}; {hint}", param=field, code="unknown_parameter")
    return RequestError(f"{field}={problem['input']!r} is refused: {problem['msg']}", param=field)
