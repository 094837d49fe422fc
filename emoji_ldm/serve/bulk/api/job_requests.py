"""Requests for bulk jobs: their schema, and the job lines that they expand to.

Every line obeys the rules of `POST /v1/images/generations`. Lines are made lazily, one after another, and written to
the store as they come (`JobStore.stage`), so a job of 50,000 lines takes little memory, and the first invalid line ends
its creation.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import IO, Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, ValidationError

from emoji_ldm.generate.request import MAX_SEED
from emoji_ldm.serve.backend import RequestLimits
from emoji_ldm.serve.bulk.api.jsonl_input import MAX_LINES, error_at_line, read_jsonl
from emoji_ldm.serve.bulk.bulk_job import IMAGES_PER_SHARD, JobLine
from emoji_ldm.serve.bulk.webhooks import check_webhook
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.image_encoding import EncodingOptions
from emoji_ldm.serve.image_requests import ImageRequest
from emoji_ldm.serve.request_validation import validate_request

MAX_IMAGES = 200_000
MAX_STYLE = 4000  # characters
DAY_S = 86_400
NUM_SEEDS = 2**31  # of seeds that the service chooses; far below 2**53, up to which JavaScript holds integers exactly
# Accepting them without effect would let a client wait for previews that never come.
STREAMING_FIELDS = ("stream", "partial_images", "queue_events")  # meaningless for images that are fetched later
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


class Webhook(BaseModel):
    """Where to tell that a job has ended."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    url: Annotated[str, Field(max_length=2000)]
    """An https URL; it gets `{"type": "emoji_set.completed", "data": {"id": ...}}`, or another end than `completed`."""
    secret: Annotated[str, Field(max_length=200)]
    """Signs the message as Standard Webhooks has it: `whsec_` and 24 to 64 bytes in base64, which you have chosen."""

    def checked(self, hosts: Collection[str]) -> dict[str, str]:
        """Return url and secret; raises RequestError if one of them is refused."""
        try:
            check_webhook(self.url, self.secret, hosts)
        except ValueError as error:
            raise RequestError(f"webhook.{error}", param="webhook") from None
        return {"url": self.url, "secret": self.secret}


class SetRequest(BaseModel):
    """The body of `POST /v1/emoji-sets`; any field of an image request may be added, and applies to all prompts."""

    model_config = ConfigDict(extra="allow", strict=True, use_attribute_docstrings=True)

    prompts: Annotated[list[str], Field(max_length=MAX_LINES), FailFast()] = []
    """The prompts; or upload JSONL, one object per line with `custom_id`, `prompt` and parameters of its own."""
    n: Annotated[int, Field(ge=1, le=1000)] = 1
    """Images per prompt (and style), with consecutive seeds from one that `seed`, the line and the style decide."""
    styles: Annotated[list[Annotated[str, AfterValidator(_style_template)]], Field(max_length=100)] = []
    """Templates such as `{prompt}, flat style`: every prompt is generated in every style."""
    name: Annotated[str, Field(max_length=200)] = ""
    """A name for your own use."""
    metadata: Metadata = {}
    """Your own notes, returned with the status."""
    webhook: Webhook | None = None
    """Told when the set has ended."""
    priority: Annotated[int, Field(ge=-10, le=10)] = 0
    """Of your jobs, those with a higher one are drawn first; other keys' jobs are not affected."""
    idempotency_key: Annotated[str, Field(max_length=255)] = ""
    """As the header `Idempotency-Key`: a second request with the same key returns the first one's job."""
    expires_after_s: Annotated[int, Field(ge=1, le=90 * DAY_S)] = 7 * DAY_S
    """Images that are not generated within this time are not generated at all."""

    @property
    def parameters(self) -> dict[str, Any]:
        """The fields of an image request, each under its canonical name."""
        return _canonical_names(self.model_extra or {})


def parse_set_request(values: object) -> SetRequest:
    """Validate parsed JSON; raises RequestError, which names the refused field."""
    if not isinstance(values, dict):
        raise RequestError('the body must be a JSON object such as {"prompts": ["a happy blob", "a green cat"]}')
    try:
        # FailFast on the prompts: a list of 50,000 numbers must not produce 50,000 errors.
        return SetRequest.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"]))
        text = f"{field} is refused: {problem['msg'].removeprefix('Value error, ')}"
        raise RequestError(text, param=field) from None


def lines_of_prompts(request: SetRequest, models: Models, seed: int) -> Iterator[JobLine]:
    """Return the lines of a list of prompts, each in every style.

    Raises:
        RequestError: At once, if there is no prompt, a parameter is refused, or the job is too large; from the
            iterator, if a prompt is refused.
    """
    if not request.prompts:
        raise RequestError("prompts is missing: give a list of texts, or upload JSONL", param="prompts",
                           code="missing_required_parameter")  # fmt: skip
    for field in ("prompt", "custom_id"):
        if field in request.parameters:
            raise RequestError(f"{field} is refused: a set has prompts", param=field)
    _image_request(request.parameters, "x", models)  # reports a refused parameter as such, not as the first prompt's
    # Checked before the first line is written; for files, whose number of lines is unknown, while they are.
    _check_size(len(request.prompts) * request.n * max(1, len(request.styles)))

    def lines() -> Iterator[JobLine]:
        for index, prompt in enumerate(request.prompts):
            try:
                yield from _lines_of_prompt(request, {"custom_id": f"{index:05d}", "prompt": prompt}, models, seed)
            except RequestError as error:
                raise RequestError(f"prompts[{index}]: {error}", param=f"prompts[{index}]", code=error.code) from None

    return limit_job_size(lines())


def lines_of_file(source: IO[bytes], request: SetRequest, models: Models, seed: int) -> Iterator[JobLine]:
    """Return the lines of JSONL, each in every style; the set's parameters are defaults for its lines.

    Raises:
        RequestError: At once, if the request has prompts as well; from the iterator, if a line is refused (the error
            names line and field), there is none, or the job is too large.
    """
    if request.prompts:
        raise RequestError("prompts is refused: the uploaded lines have the prompts", param="prompts")

    def lines() -> Iterator[JobLine]:
        source.seek(0)
        for number, values in read_jsonl(source):
            if isinstance(values, RequestError):
                raise values
            fields = {name: value for name, value in values.items() if name not in ("custom_id", "n")}
            try:
                # Lines bypass the schema of the set, which checks its own n.
                _check_n(values.get("n", request.n))
                # A line's own n replaces that of the set.
                own_request = request.model_copy(update={"n": values["n"]}) if "n" in values else request
                # Later entries win: a line's own parameters override the defaults of the set.
                merged = {**_without_seed(request), **_canonical_names(fields), "custom_id": values["custom_id"]}
                yield from _lines_of_prompt(own_request, merged, models, seed)
            except RequestError as error:
                raise error_at_line(number, error) from None

    return limit_job_size(lines())


def line_of_request(request: ImageRequest, models: Models, *, custom_id: str, seed: int, style: str = "") -> JobLine:
    """Return the line of one image request; `seed` is used if the request has none."""
    first_seed = seed if request.seed is None else request.seed
    generation_request = request.generation_requests(first_seed, models[request.model])[0]
    output = {} if request.output == EncodingOptions() else asdict(request.output)
    return JobLine(custom_id, request.model, generation_request, request.n, 0, style, output)


def refuse_streaming(values: Mapping[str, Any]) -> None:
    """Raise RequestError for fields that only make sense while a client waits."""
    for field in STREAMING_FIELDS:
        if values.get(field):
            raise RequestError(
                f"{field} is refused: images of a bulk job are fetched once they are finished", param=field
            )
    if values.get("response_format") == "url":
        raise RequestError("response_format='url' is refused: images of a bulk job are fetched from the job",
                           param="response_format")  # fmt: skip


def limit_job_size(lines: Iterable[JobLine]) -> Iterator[JobLine]:
    """Yield the lines; raises RequestError once they have more than `MAX_IMAGES` images."""
    num_images = 0
    for line in lines:
        num_images += line.n
        _check_size(num_images)
        yield line


def request_digest(request: bytes, source: IO[bytes] | None = None) -> str:
    """Return a digest of a request and its uploaded file, by which a repeated request is recognised.

    The file is read to its end and rewound.
    """
    # The request is hashed first, so that its end cannot be taken for the beginning of the file.
    digest = hashlib.sha256(hashlib.sha256(request).digest())
    if source is not None:
        source.seek(0)
        while part := source.read(2**20):
            digest.update(part)
        source.seek(0)
    return digest.hexdigest()[:32]


def random_seed() -> int:
    """Return a seed for a request that names none."""
    return secrets.randbelow(NUM_SEEDS)


def derived_seed(seed: int, custom_id: str, style_index: int) -> int:
    """Return the first seed of a prompt in a style, which the set's seed decides.

    One seed for all would start all images from the same noise, and most would show one composition. The seed depends
    on the line's name and not on its place: a set with lines added or removed repeats the images of the others.
    """
    text = json.dumps([seed, custom_id, style_index])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % NUM_SEEDS


def _without_seed(request: SetRequest) -> dict[str, Any]:
    """The set's parameters but its seed, which is the start of `derived_seed`; that of a line is taken as it is."""
    return {name: value for name, value in request.parameters.items() if name != "seed"}


def _lines_of_prompt(request: SetRequest, values: Mapping[str, Any], models: Models, seed: int) -> Iterator[JobLine]:
    """Yield the lines of one prompt: for each style, lines of at most IMAGES_PER_SHARD images."""
    custom_id, prompt = values["custom_id"], values.get("prompt")
    own_parameters = {name: value for name, value in values.items() if name not in ("custom_id", "prompt")}
    parameters = {**_without_seed(request), **own_parameters}
    for style_index, style in enumerate(request.styles or [""]):
        # A blank prompt, or one that is not a text, goes to the validation as it is: it says what is wrong with it.
        text = style.replace("{prompt}", prompt) if style and isinstance(prompt, str) and prompt.strip() else prompt
        image_request = _image_request(parameters, text, models)
        own_seed = derived_seed(seed, custom_id, style_index)
        line = line_of_request(image_request, models, custom_id=custom_id, seed=own_seed, style=style)
        # The last of the consecutive seeds must fit the int64 column as well.
        if line.draw.seed + request.n - 1 > MAX_SEED:
            raise RequestError(f"seed {line.draw.seed} is too large for {request.n} images", param="seed")
        # The common case needs no copy of the line.
        if request.n == 1 and style_index == 0:
            yield line
            continue
        # Long lines are split, so that a shard stays about as large as IMAGES_PER_SHARD whatever `n` is.
        for first in range(0, request.n, IMAGES_PER_SHARD):
            draw = replace(line.draw, seed=line.draw.seed + first)
            num_images = min(IMAGES_PER_SHARD, request.n - first)
            yield replace(line, draw=draw, n=num_images, first=style_index * request.n + first)


def _image_request(parameters: Mapping[str, Any], prompt: object, models: Models) -> ImageRequest:
    refuse_streaming(parameters)
    values = dict(parameters) if prompt is None else {**parameters, "prompt": prompt}
    return validate_request(ImageRequest, values, models)


def _canonical_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace `steps` by `num_inference_steps`, so that a line's value overrides a set's whichever name they use."""
    if "steps" in values and "num_inference_steps" in values:
        raise RequestError("steps and num_inference_steps are the same: give one of them", param="steps")
    return {("num_inference_steps" if name == "steps" else name): value for name, value in values.items()}


def _check_n(n: object) -> None:
    # bool is a subclass of int in Python, and JSON's true is no number.
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= 1000:
        raise RequestError(f"n={n!r} is refused: a whole number from 1 to 1000", param="n")


def _check_size(num_images: int) -> None:
    if num_images > MAX_IMAGES:
        raise RequestError(f"at most {MAX_IMAGES:,} images in one job", code="too_many_pictures")
