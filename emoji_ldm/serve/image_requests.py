"""What requests for images may say: the fields of the official OpenAI client, and this service's own.

`seed`, `negative_prompt`, `num_inference_steps` (or `steps`), `guidance_scale`, `scheduler`, `strength` and `lora` are
its own, under the names that diffusers uses. A field that could not be kept to is refused, with the reason.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from emoji_ldm.generate.request import MAX_SEED, GenerationRequest
from emoji_ldm.serve.backend import RequestLimits
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.image_encoding import Background, EncodingOptions, ImageFormat
from emoji_ldm.serve.request_body import parse_json

MAX_PROMPT = 4000  # characters
DEFAULT_STEPS = 30
QUALITIES = {"low": 10, "medium": 30, "high": 50}  # steps
SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")
UNSUPPORTED_FIELDS = {
    "style": "say it in the prompt",
    "input_fidelity": "use strength: near 0 keeps all of the picture, 1 nothing",
    "markup": "use mask",
    "complexity": "use num_inference_steps",
    "svg": "this service writes png, webp and jpeg",
    "frame_count": "this service draws no animations",
    "frame_duration_ms": "this service draws no animations",
}  # of the official client


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("it holds a NUL character")
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty; say what to draw")
    return _without_nul(text)


PromptText = Annotated[str, Field(max_length=MAX_PROMPT), AfterValidator(_without_nul)]
Label = Annotated[str, Field(max_length=512)]


class ImageRequest(BaseModel):
    """The body of `POST /v1/images/generations`."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    prompt: Annotated[str, Field(max_length=MAX_PROMPT), AfterValidator(_not_blank)]
    """What to draw."""
    model: str = ""
    """Name of a model as `GET /v1/models` gives it; the first of them if absent."""
    n: Annotated[int, Field(ge=1)] = 1
    """Images, with seeds `seed`, `seed` + 1, ..."""
    size: str = "auto"
    """`WIDTHxHEIGHT`, or `auto`: what the model was trained on."""
    response_format: Literal["b64_json"] = "b64_json"
    """Files in base64. `url` is refused: this service keeps no pictures that a URL could lead to."""
    output_format: ImageFormat = "png"
    """Kind of the files. A PNG tells in text chunks how it was drawn, the others in their Exif comment."""
    output_compression: Annotated[int, Field(ge=0, le=100)] = 100
    """Quality of JPEG or WebP (where 100 is lossless); refused for PNG, which is always lossless."""
    background: Background = "auto"
    """`transparent` gives an alpha channel, `opaque` white paper, `auto` what the model drew (JPEG: paper)."""
    quality: Literal["auto", "standard", "low", "medium", "high", "hd"] = "auto"
    """Denoising steps by another name: low 10, medium (standard) 30, high (hd) 50, `auto` 30."""
    moderation: Literal["auto", "low"] = "auto"
    """Taken from clients that send it; this service filters nothing, whatever it says."""
    user: Label = ""
    """A label of yours for the end user; it stands in the service's log."""
    safety_identifier: Label = ""
    """As `user`, and told again in the answer."""
    stream: bool = False
    """Answer with server-sent events: previews, then the images as they are ready."""
    partial_images: Annotated[int, Field(ge=0, le=3)] = 0
    """Previews per image at most; with `stream`."""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    """First seed; chosen by chance and told in the answer if absent."""
    num_inference_steps: Annotated[
        int | None, Field(ge=1, validation_alias=AliasChoices("num_inference_steps", "steps"))
    ] = None  # fmt: skip
    """Denoising steps; as `quality` says if absent, or the model's most if that is less. `steps` means the same."""
    guidance_scale: Annotated[float, Field(ge=1, le=50, allow_inf_nan=False)] = GenerationRequest.guidance_scale
    """Classifier-free guidance; 1 turns it off."""
    negative_prompt: PromptText = ""
    """What to steer away from; without effect at `guidance_scale` 1."""
    scheduler: str = ""
    """Sampler, of those that the model lists (`GET /v1/models`); the first of them if absent."""
    lora: str = ""
    """Adapter, of those that the model lists; none if absent."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """Refuse fields that contradict each other, and such as would have no effect."""
        given = self.model_fields_set
        if self.output_format == "jpeg" and self.background == "transparent":
            raise ValueError("background='transparent' is refused: JPEG has no transparency, PNG and WebP have")
        if self.output_format == "png" and self.output_compression != 100:
            raise ValueError("output_compression is refused: PNG is lossless, only WebP and JPEG have a quality")
        if self.partial_images and not self.stream:
            raise ValueError("partial_images is refused: previews come with stream=true")
        if self.quality != "auto" and "num_inference_steps" in given:
            raise ValueError("quality is refused: num_inference_steps already says how many steps")
        return self

    @property
    def output(self) -> EncodingOptions:
        """The file that is asked for."""
        return EncodingOptions(self.output_format, self.output_compression, self.background)

    @property
    def level(self) -> str:
        """The quality in the words of OpenAI's answers."""
        return {"standard": "medium", "hd": "high"}.get(self.quality, self.quality)

    def draws(self, seed: int, limits: RequestLimits) -> list[GenerationRequest]:
        """One draw per image; only of a request that `check` let pass."""
        steps = self.num_inference_steps or min(QUALITIES.get(self.level, DEFAULT_STEPS), limits.max_steps)
        width_px, height_px = parse_size(self.size)
        return [
            GenerationRequest(self.prompt, self.negative_prompt, seed + index, steps, self.guidance_scale, self.scheduler,
                 width_px, height_px, lora=self.lora)
            for index in range(self.n)
        ]  # fmt: skip


RequestT = TypeVar("RequestT", bound=ImageRequest)


def parse_request(body: bytes, models: Mapping[str, RequestLimits]) -> ImageRequest:
    """The request in a body of JSON. Raises as `parse_values`."""
    return parse_values(parse_json(body), models)


def parse_values(values: object, models: Mapping[str, RequestLimits]) -> ImageRequest:
    """A request for new images from parsed JSON; its `model` is one of `models`.

    Raises:
        RequestError: It is no object, a field is unknown or refused, or the model does not allow it.
    """
    return validate_request(ImageRequest, values, models)


def validate_request(kind: type[RequestT], values: object, models: Mapping[str, RequestLimits]) -> RequestT:
    """A request of a kind; raises as `parse_values`. As the official client sends it, null is the same as absent."""
    if not isinstance(values, dict):
        raise RequestError('the body must be a JSON object such as {"prompt": "a happy blob"}')
    known = known_fields(kind)
    for name in values:
        if name not in known:
            raise RequestError(f"unknown field {name!r}; {UNSUPPORTED_FIELDS.get(name) or _suggestion(name, known)}", param=name,
                               code="unknown_parameter")  # fmt: skip
    try:
        request = kind.model_validate({name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        raise _from_validation_error(error) from None
    if not request.model:
        request = request.model_copy(update={"model": next(iter(models))})
    if request.model not in models:
        raise RequestError(f"there is no model {request.model!r}; this service has {', '.join(map(repr, models))}",
                           status=404, param="model", code="model_not_found")  # fmt: skip
    check_limits(request, models[request.model])
    return request


def check_limits(request: ImageRequest, limits: RequestLimits) -> None:
    """Raise RequestError for what the model does not allow."""
    if request.n > limits.max_images:
        raise RequestError(f"n={request.n} is refused: at most {limits.max_images} images per request", param="n")
    steps = request.num_inference_steps or 0
    if steps > limits.max_steps:
        raise RequestError(f"num_inference_steps={steps} is refused: at most {limits.max_steps}",
                           param="num_inference_steps")  # fmt: skip
    if request.seed is not None and request.seed + request.n - 1 > MAX_SEED:
        raise RequestError(f"seed {request.seed} is too large for {request.n} images", param="seed")
    _check_size(request.size, limits)
    for field, value, known in (
        ("scheduler", request.scheduler, limits.schedulers),
        ("lora", request.lora, limits.loras),
    ):
        if value and value not in known:
            raise RequestError(f"{field}={value!r} is refused; {_suggestion(value, known)}", param=field)


def parse_size(size: str) -> tuple[int, int]:
    """Width and height in pixels; 0 for `auto` (and for what `check` refuses)."""
    match = SIZE.fullmatch(size)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def known_fields(kind: type[ImageRequest]) -> list[str]:
    """The names that a request may use."""
    return [*kind.model_fields, "steps"]


def _check_size(size: str, limits: RequestLimits) -> None:
    if size == "auto":
        return
    rule = (f"sides are multiples of {limits.side_step_px} up to {limits.max_side_px}, "
            f"such as {limits.width_px}x{limits.height_px}, or 'auto'")  # fmt: skip
    given = parse_size(size)
    if not all(given) or any(side % limits.side_step_px or side > limits.max_side_px for side in given):
        raise RequestError(f"size={size!r} is refused: {rule}", param="size")


def _from_validation_error(error: ValidationError) -> RequestError:
    """The first problem, in words."""
    problem = error.errors()[0]
    field = str(problem["loc"][0]) if problem["loc"] else None
    if field is None:  # fields that do not agree: the text begins with the one to change
        text = problem["msg"].removeprefix("Value error, ")
        return RequestError(text, param=re.split(r"\W", text, maxsplit=1)[0])
    if problem["type"] == "missing":
        return RequestError(f"the field {field!r} is missing", param=field, code="missing_required_parameter")
    if problem["type"] == "extra_forbidden":  # one of two names of the same field
        return RequestError(f"the field {field!r} is there twice, under two names", param=field)
    shown = repr(problem["input"])
    shown = shown if len(shown) < 100 else f"{shown[:80]}... ({len(shown):,} characters)"
    why = (
        "only 'b64_json': this service keeps no pictures that a URL could lead to" if field == "response_format" else ""
    )
    return RequestError(
        f"{field}={shown} is refused: {why or problem['msg'].removeprefix('Value error, ')}", param=field
    )


def _suggestion(name: str, known: list[str] | tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name[:100], known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(known) or 'none'}"
