"""What may be asked for in bulk: every line by the rules of `POST /v1/images/generations`, refused by its number."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import IO, Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, ValidationError

from emoji_ldm.generate.request import MAX_SEED
from emoji_ldm.serve.backend import RequestLimits
from emoji_ldm.serve.bulk.shards import PICTURES_PER_SHARD, JobLine
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.image_encoding import EncodingOptions
from emoji_ldm.serve.image_requests import ImageRequest, parse_values
from emoji_ldm.serve.request_body import parse_json

MAX_LINES = 50_000
MAX_PICTURES = 200_000
MAX_LINE_BYTES = 256 * 1024
MAX_BYTES = 200 * 2**20
MAX_STYLE = 4000  # characters
DAY_S = 86_400
STREAMING_FIELDS = ("stream", "partial_images")  # have no sense for pictures that are fetched later
Models = Mapping[str, RequestLimits]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]


def _style_template(text: str) -> str:
    if text.count("{prompt}") != 1:
        raise ValueError("a style is a text with {prompt} in it once, such as '{prompt}, flat style'")
    if len(text) > MAX_STYLE:
        raise ValueError(f"a style has at most {MAX_STYLE:,} characters")
    return text


class SetRequest(BaseModel):
    """The body of `POST /v1/emoji-sets`, beside the fields of one image request, which are the same for all prompts."""

    model_config = ConfigDict(extra="allow", strict=True, use_attribute_docstrings=True)

    prompts: Annotated[list[str], Field(max_length=MAX_LINES), FailFast()] = []
    """What to draw; or upload JSONL, one object per line with `custom_id`, `prompt` and parameters of its own."""
    n: Annotated[int, Field(ge=1, le=1000)] = 1
    """Pictures per prompt (and style), with seeds `seed`, `seed` + 1, ..."""
    styles: Annotated[list[Annotated[str, AfterValidator(_style_template)]], Field(max_length=100)] = []
    """Templates such as `{prompt}, flat style`: every prompt is drawn in every style."""
    name: Annotated[str, Field(max_length=200)] = ""
    """A name for people."""
    metadata: Metadata = {}
    """Your own notes, told again with the status."""
    idempotency_key: Annotated[str, Field(max_length=255)] = ""
    """As the header `Idempotency-Key`: asked again with the same key, the first job is answered."""
    expires_after_s: Annotated[int, Field(ge=1, le=90 * DAY_S)] = 7 * DAY_S
    """What is not drawn by then is not drawn at all."""

    @property
    def parameters(self) -> dict[str, Any]:
        """The fields of an image request, under one name each."""
        return _canonical_names(self.model_extra or {})


def parse_set_request(values: object) -> SetRequest:
    """The request in parsed JSON; RequestError names the field that is refused."""
    if not isinstance(values, dict):
        raise RequestError('the body must be a JSON object such as {"prompts": ["a happy blob", "a green cat"]}')
    try:
        return SetRequest.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"]))
        text = f"{field} is refused: {problem['msg'].removeprefix('Value error, ')}"
        raise RequestError(text, param=field) from None


def lines_of_prompts(wanted: SetRequest, models: Models, seed: int) -> Iterator[JobLine]:
    """The lines of a list of prompts, each in every style.

    Raises:
        RequestError: There is no prompt, a parameter or prompt is refused, or the job is too large.
    """
    if not wanted.prompts:
        raise RequestError("prompts is missing: give a list of texts, or upload JSONL", param="prompts",
                           code="missing_required_parameter")  # fmt: skip
    for field in ("prompt", "custom_id"):
        if field in wanted.parameters:
            raise RequestError(f"{field} is refused: a set has prompts", param=field)
    _request(wanted.parameters, "x", models)
    _check_size(len(wanted.prompts) * wanted.n * max(1, len(wanted.styles)))

    def numbered() -> Iterator[JobLine]:
        for index, prompt in enumerate(wanted.prompts):
            try:
                yield from _styled(wanted, {"custom_id": f"{index:05d}", "prompt": prompt}, models, seed)
            except RequestError as error:
                raise RequestError(f"prompts[{index}]: {error}", param=f"prompts[{index}]", code=error.code) from None

    return limit_job_size(numbered())


def lines_of_file(source: IO[bytes], wanted: SetRequest, models: Models, seed: int) -> Iterator[JobLine]:
    """The lines of JSONL, each in every style; parameters of the set are defaults of its lines.

    Raises:
        RequestError: A line is refused (it names the line and the field), none is there, or the job is too large.
    """
    if wanted.prompts:
        raise RequestError("prompts is refused: the uploaded lines have the prompts", param="prompts")

    def numbered() -> Iterator[JobLine]:
        for number, values in read_jsonl(source):
            with_line = {name: value for name, value in values.items() if name not in ("custom_id", "n")}
            try:
                _check_n(values.get("n", wanted.n))
                own = wanted.model_copy(update={"n": values["n"]}) if "n" in values else wanted
                whole = {**wanted.parameters, **_canonical_names(with_line), "custom_id": values["custom_id"]}
                yield from _styled(own, whole, models, seed)
            except RequestError as error:
                raise error_at_line(number, error) from None

    return limit_job_size(numbered())


def read_jsonl(source: IO[bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of JSONL with distinct `custom_id`s; empty lines are passed over."""
    seen: dict[str, int] = {}
    number = 0
    while data := source.readline(MAX_LINE_BYTES + 1):
        number += 1
        try:
            if not data.strip():
                continue
            values = _object(data)
            custom_id = values["custom_id"]
            if custom_id in seen:
                raise RequestError(f"custom_id {custom_id!r} is that of line {seen[custom_id]} already",
                                   param="custom_id", code="duplicate_custom_id")  # fmt: skip
            if len(seen) == MAX_LINES:
                raise RequestError(f"at most {MAX_LINES:,} lines in one job", code="too_many_lines")
        except RequestError as error:
            raise error_at_line(number, error) from None
        seen[custom_id] = number
        yield number, values
    if not seen:
        raise RequestError("the file holds no line", code="empty_file")


def error_at_line(number: int, error: RequestError) -> RequestError:
    """The refusal of one line; `param` stays the field."""
    refusal = RequestError(f"line {number}: {error}", param=error.param, code=error.code)
    refusal.line = number  # type: ignore[attr-defined]
    return refusal


def line_of_request(request: ImageRequest, models: Models, *, custom_id: str, seed: int, style: str = "") -> JobLine:
    """One image request as a line."""
    draws = request.draws(seed if request.seed is None else request.seed, models[request.model])
    output = {} if request.output == EncodingOptions() else asdict(request.output)
    return JobLine(custom_id, request.model, draws[0], request.n, 0, style, output)


def refuse_streaming(values: Mapping[str, Any]) -> None:
    """RequestError for what has no sense in bulk."""
    for field in STREAMING_FIELDS:
        if values.get(field):
            raise RequestError(
                f"{field} is refused: pictures of a bulk job are fetched when they are there", param=field
            )


def limit_job_size(lines: Iterable[JobLine]) -> Iterator[JobLine]:
    """The lines, refused when they make more pictures than a job may have."""
    pictures = 0
    for line in lines:
        pictures += line.n
        _check_size(pictures)
        yield line


def request_digest(request: bytes, source: IO[bytes] | None = None) -> str:
    """A short key of a request and its file, which is read to its end and set back, to tell a repeated one."""
    digest = hashlib.sha256(hashlib.sha256(request).digest())
    if source is not None:
        source.seek(0)
        while part := source.read(2**20):
            digest.update(part)
        source.seek(0)
    return digest.hexdigest()[:32]


def _styled(wanted: SetRequest, values: Mapping[str, Any], models: Models, seed: int) -> Iterator[JobLine]:
    """The lines of one prompt: each style, at most PICTURES_PER_SHARD pictures a line."""
    custom_id, prompt = values["custom_id"], values.get("prompt")
    rest = {name: value for name, value in values.items() if name not in ("custom_id", "prompt")}
    rest = {**wanted.parameters, **rest}
    for place, style in enumerate(wanted.styles or [""]):
        text = style.replace("{prompt}", prompt) if style and isinstance(prompt, str) and prompt.strip() else prompt
        line = line_of_request(_request(rest, text, models), models, custom_id=custom_id, seed=seed, style=style)
        if line.draw.seed + wanted.n - 1 > MAX_SEED:
            raise RequestError(f"seed {line.draw.seed} is too large for {wanted.n} images", param="seed")
        if wanted.n == 1 and place == 0:
            yield line
            continue
        for first in range(0, wanted.n, PICTURES_PER_SHARD):
            draw = replace(line.draw, seed=line.draw.seed + first)
            yield replace(line, draw=draw, n=min(PICTURES_PER_SHARD, wanted.n - first), first=place * wanted.n + first)


def _request(parameters: Mapping[str, Any], prompt: object, models: Models) -> ImageRequest:
    refuse_streaming(parameters)
    values = dict(parameters) if prompt is None else {**parameters, "prompt": prompt}
    return parse_values(values, models)


def _canonical_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values under one name each, so that a line's `steps` goes before a set's `num_inference_steps`."""
    if "steps" in values and "num_inference_steps" in values:
        raise RequestError("steps and num_inference_steps are the same: give one of them", param="steps")
    return {("num_inference_steps" if name == "steps" else name): value for name, value in values.items()}


def _object(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_LINE_BYTES:
        raise RequestError(f"it is longer than {MAX_LINE_BYTES:,} bytes", code="line_too_long")
    try:
        values = parse_json(data)
    except RequestError as error:
        raise RequestError(str(error).replace("the body is", "it is"), param=error.param, code="invalid_json") from None
    if not isinstance(values, dict):
        raise RequestError(f"it is no JSON object but {json.dumps(values)[:40]}", code="invalid_json")
    custom_id = values.get("custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= 512:
        raise RequestError("custom_id must be a text of 1 to 512 characters", param="custom_id",
                           code="missing_required_parameter" if custom_id is None else None)  # fmt: skip
    return values


def _check_n(n: object) -> None:
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= 1000:
        raise RequestError(f"n={n!r} is refused: a whole number from 1 to 1000", param="n")


def _check_size(pictures: int) -> None:
    if pictures > MAX_PICTURES:
        raise RequestError(f"at most {MAX_PICTURES:,} pictures in one job", code="too_many_pictures")


def random_seed() -> int:
    """A seed for who gives none."""
    return secrets.randbelow(2**31)
