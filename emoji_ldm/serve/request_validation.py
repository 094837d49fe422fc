"""Validation of image requests: against the schema, against the model's limits, with errors that name the field."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import TypeVar

from pydantic import ValidationError

from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.adapter_mix import mix_name, parse_mix
from emoji_ldm.generate.request import MAX_SEED
from emoji_ldm.serve.backend import RequestLimits
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.image_requests import ImageRequest, parse_size
from emoji_ldm.serve.request_body import parse_json

RequestT = TypeVar("RequestT", bound=ImageRequest)
# Fields of the official client that this service cannot honour, with what to do instead.
UNSUPPORTED_FIELDS = {
    "style": "say it in the prompt",
    "input_fidelity": "use strength: near 0 keeps all of the image, 1 nothing",
    "markup": "use mask",
    "complexity": "use num_inference_steps",
    "svg": "this service writes png, webp and jpeg",
    "frame_count": "this service draws no animations",
    "frame_duration_ms": "this service draws no animations",
}


def parse_request(body: bytes, models: Mapping[str, RequestLimits]) -> ImageRequest:
    """Return the image request in a JSON body; raises as `validate_request`."""
    return validate_request(ImageRequest, parse_json(body), models)


def validate_request(schema: type[RequestT], values: object, models: Mapping[str, RequestLimits]) -> RequestT:
    """Return a validated request whose `model` is one of `models`.

    Args:
        schema: `ImageRequest` or a subclass.
        values: Parsed JSON. A null counts as an absent field, since the official client sends it for unset options.
        models: Limits by model name, the default model first.

    Raises:
        RequestError: The value is not an object, a field is unknown or refused, or the model does not allow it.
    """
    if not isinstance(values, dict):
        raise RequestError('the body must be a JSON object such as {"prompt": "a happy blob"}')
    known = [*schema.model_fields, "steps"]
    # Checked before pydantic, whose own error would neither suggest a name nor explain what is unsupported.
    for name in values:
        if name not in known:
            hint = UNSUPPORTED_FIELDS.get(name) or _suggestion(name, known)
            raise RequestError(f"unknown field {name!r}; {hint}", param=name, code="unknown_parameter")
    try:
        # Dropping nulls here means that no field needs None in its type only to accept one.
        request = schema.model_validate({name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        raise _from_validation_error(error) from None
    request = _with_adapters(request)
    if not request.model:
        request = request.model_copy(update={"model": next(iter(models))})
    if request.model not in models:
        raise RequestError(f"there is no model {request.model!r}; this service has {', '.join(map(repr, models))}",
                           status=404, param="model", code="model_not_found")  # fmt: skip
    # Limits depend on the model, which the schema does not know, so they are checked after it.
    check_limits(request, models[request.model])
    return request


def _with_adapters(request: RequestT) -> RequestT:
    """Return a request whose adapters stand in `lora` alone, under the one name of their mix.

    Raises:
        RequestError: They stand in `model` as well, or are no mix.
    """
    model, plus, mix = request.model.partition("+")
    if plus and not mix:
        raise RequestError(f"model={request.model[:100]!r} is refused: after + comes an adapter", param="model")
    if plus and request.lora:
        raise RequestError("lora is refused: the model names adapters already", param="lora")
    try:
        name = mix_name(parse_mix(mix if plus else request.lora))
    except ConfigError as error:
        raise RequestError(str(error), param="model" if plus else "lora") from None
    return request.model_copy(update={"model": model, "lora": name})


def check_limits(request: ImageRequest, limits: RequestLimits) -> None:
    """Raise RequestError for what the model does not allow."""
    if request.n > limits.max_images:
        raise RequestError(f"n={request.n} is refused: at most {limits.max_images} images per request", param="n")
    steps = request.num_inference_steps or 0
    if steps > limits.max_steps:
        raise RequestError(f"num_inference_steps={steps} is refused: at most {limits.max_steps}",
                           param="num_inference_steps")  # fmt: skip
    # The last seed counts. It is stored in an int64 column, which must not overflow.
    if request.seed is not None and request.seed + request.n - 1 > MAX_SEED:
        raise RequestError(f"seed {request.seed} is too large for {request.n} images", param="seed")
    _check_size(request.size, limits)
    adapters = (("lora", part.name, limits.loras) for part in parse_mix(request.lora))
    for field, value, known in (("scheduler", request.scheduler, limits.schedulers), *adapters):
        if value and value not in known:
            raise RequestError(f"{field}={value!r} is refused; {_suggestion(value, known)}", param=field)


def _check_size(size: str, limits: RequestLimits) -> None:
    if size == "auto":
        return
    rule = (f"sides are multiples of {limits.side_step_px} up to {limits.max_side_px}, "
            f"such as {limits.width_px}x{limits.height_px}, or 'auto'")  # fmt: skip
    sides = parse_size(size)
    if not all(sides) or any(side % limits.side_step_px or side > limits.max_side_px for side in sides):
        raise RequestError(f"size={size!r} is refused: {rule}", param="size")


def _from_validation_error(error: ValidationError) -> RequestError:
    """Turn pydantic's first problem into a sentence that names the field and its value."""
    # OpenAI names one parameter per error, so the first problem is reported.
    problem = error.errors()[0]
    field = str(problem["loc"][0]) if problem["loc"] else None
    text = problem["msg"].removeprefix("Value error, ")
    if field is None:  # of `ImageRequest._fields_agree`, whose messages start with the field to change
        return RequestError(text, param=re.split(r"\W", text, maxsplit=1)[0])
    if problem["type"] == "missing":
        return RequestError(f"the field {field!r} is missing", param=field, code="missing_required_parameter")
    if problem["type"] == "extra_forbidden":  # unknown fields were refused before, so it is an alias of a given one
        return RequestError(f"the field {field!r} appears twice, under two names", param=field)
    # The value helps to find a mistake in the client, but a prompt of 4,000 characters would bury the reason.
    value = repr(problem["input"])
    value = value if len(value) < 100 else f"{value[:80]}... ({len(value):,} characters)"
    return RequestError(f"{field}={value} is refused: {text}", param=field)


def _suggestion(name: str, known: list[str] | tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name[:100], known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(known) or 'none'}"
