"""The schema of image requests: the fields of the official OpenAI client, and this service's own.

`seed`, `negative_prompt`, `num_inference_steps` (or `steps`), `guidance_scale`, `scheduler`, `strength` and `lora` are
this service's own, under the names that diffusers uses. A field that the service cannot honour is refused, with the
reason; only `moderation` is accepted without effect, since OpenAI's clients always send it.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, model_validator

from emoji_ldm.generate.request import MAX_SEED, GenerationRequest
from emoji_ldm.serve.backend import RequestLimits
from emoji_ldm.serve.image_encoding import Background, EncodingOptions, ImageFormat

MAX_PROMPT = 4000  # characters
DEFAULT_STEPS = 30
# OpenAI's qualities have no meaning for a diffusion model. The number of steps is the closest trade of time for
# quality.
QUALITY_STEPS = {"low": 10, "medium": 30, "high": 50}
# At most five digits per side: int() of a text with thousands of digits is slow.
SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")


def _without_nul(text: str) -> str:
    # The PNG specification forbids NUL in text chunks, which hold the prompt.
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

    # Strict: JSON has types, and "2" for n, or true, is more likely a mistake than a number.
    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    prompt: Annotated[str, Field(max_length=MAX_PROMPT), AfterValidator(_not_blank)]
    """What to draw."""
    model: str = ""
    """Name of a model as `GET /v1/models` lists it; default: the first one. `MODEL+NAME:0.8+NAME` adds adapters."""
    n: Annotated[int, Field(ge=1)] = 1
    """Number of images; their seeds are `seed`, `seed` + 1, ..."""
    size: str = "auto"
    """`WIDTHxHEIGHT`, or `auto`: the size that the model was trained on."""
    response_format: Literal["b64_json", "url"] = "b64_json"
    """Files in base64, or links to them that are valid for an hour."""
    output_format: ImageFormat = "png"
    """Format of the files. PNG files hold their parameters in text chunks, the others in the Exif comment."""
    output_compression: Annotated[int, Field(ge=0, le=100)] = 100
    """Quality of JPEG or WebP (where 100 is lossless); refused for PNG, which is always lossless."""
    background: Background = "auto"
    """`transparent` gives an alpha channel, `opaque` a white background, `auto` what the model drew (JPEG: white)."""
    quality: Literal["auto", "standard", "low", "medium", "high", "hd"] = "auto"
    """Another way to set the denoising steps: low 10, medium (standard) 30, high (hd) 50, `auto` 30."""
    moderation: Literal["auto", "low"] = "auto"
    """Accepted for clients that send it, without effect: this service filters nothing."""
    user: Label = ""
    """Your label of the end user; written to the service's log."""
    safety_identifier: Label = ""
    """As `user`, and returned in the response."""
    stream: bool = False
    """Respond with server-sent events: previews, and each image as soon as it is ready."""
    partial_images: Annotated[int, Field(ge=0, le=3)] = 0
    """Maximum number of previews per image; with `stream` only."""
    queue_events: bool = False
    """With `stream`: also events `image_generation.queued` with `place` (0: being drawn) and `eta_s` of each image."""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    """First seed; default: a random one, which the response contains."""
    num_inference_steps: Annotated[
        int | None, Field(ge=1, validation_alias=AliasChoices("num_inference_steps", "steps"))
    ] = None  # fmt: skip
    """Denoising steps; default: what `quality` says, at most what the model allows. `steps` is the same field."""
    guidance_scale: Annotated[float, Field(ge=1, le=50, allow_inf_nan=False)] = GenerationRequest.guidance_scale
    """Classifier-free guidance; 1 turns it off."""
    negative_prompt: PromptText = ""
    """What to steer away from; without effect at `guidance_scale` 1."""
    scheduler: str = ""
    """Sampler, one of those that the model lists (`GET /v1/models`); default: the first one."""
    lora: str = ""
    """LoRA adapters that the model lists, with weights that are not 1: `pixel:0.8+outline`; default: none."""

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        """Refuse fields that contradict each other or would have no effect.

        Each message starts with the field to change: `request_validation` reports it as `param`.
        """
        if self.output_format == "jpeg" and self.background == "transparent":
            raise ValueError("background='transparent' is refused: JPEG has no transparency, PNG and WebP have")
        if self.output_format == "png" and self.output_compression != 100:
            raise ValueError("output_compression is refused: PNG is lossless, only WebP and JPEG have a quality")
        if self.partial_images and not self.stream:
            raise ValueError("partial_images is refused: previews come with stream=true")
        if self.queue_events and not self.stream:
            raise ValueError("queue_events is refused: they come with stream=true")
        if self.quality != "auto" and "num_inference_steps" in self.model_fields_set:
            raise ValueError("quality is refused: num_inference_steps already says how many steps")
        return self

    @property
    def event_prefix(self) -> str:
        """Of the types of stream events."""
        return "image_generation"

    @property
    def full_model(self) -> str:
        """The model with its adapters, as requests may name it."""
        return f"{self.model}+{self.lora}" if self.lora else self.model

    @property
    def output(self) -> EncodingOptions:
        """How the image files are encoded."""
        return EncodingOptions(self.output_format, self.output_compression, self.background)

    @property
    def openai_quality(self) -> str:
        """The quality under the name that OpenAI's responses use."""
        return {"standard": "medium", "hd": "high"}.get(self.quality, self.quality)

    def generation_requests(self, seed: int, limits: RequestLimits) -> list[GenerationRequest]:
        """Return one engine request per image, with consecutive seeds.

        Args:
            seed: Seed of the first image.
            limits: Limits of the model, which this request has already been checked against.
        """
        # Consecutive seeds make each image of a request reproducible by itself: the same request with n=1 and the seed
        # of the response gives the same image.
        quality_steps = QUALITY_STEPS.get(self.openai_quality, DEFAULT_STEPS)
        # An explicit number above the limit is refused, a default is capped: a distilled model with a limit of 8
        # steps must accept a request that names none.
        steps = self.num_inference_steps or min(quality_steps, limits.max_steps)
        width_px, height_px = parse_size(self.size)
        return [
            GenerationRequest(self.prompt, self.negative_prompt, seed + index, steps, self.guidance_scale,
                              self.scheduler, width_px, height_px, lora=self.lora)
            for index in range(self.n)
        ]  # fmt: skip


def parse_size(size: str) -> tuple[int, int]:
    """Return width and height in pixels; (0, 0) for `auto` and for what is not a size."""
    match = SIZE.fullmatch(size)
    return (int(match[1]), int(match[2])) if match else (0, 0)
