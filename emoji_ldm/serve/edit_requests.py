"""Image edits: the multipart form of `POST /v1/images/edits`, which starts from an uploaded image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import ConfigDict, Field
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.serve.backend import RequestLimits
from emoji_ldm.serve.decoding_pool import POOL
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.image_requests import ImageRequest, PromptText, parse_size
from emoji_ldm.serve.request_body import limit_body
from emoji_ldm.serve.request_validation import validate_request

# A photograph of a phone is 3 to 6 MB. Whatever is larger is scaled down to the image size anyway.
MAX_FILE_BYTES = 8 * 2**20
MAX_BODY_BYTES = 2 * MAX_FILE_BYTES + 256 * 1024
MAX_FIELD_BYTES = 64 * 1024
MAX_FIELDS = 40
VARIATION_STRENGTH = 0.6  # another picture of the same kind: the layout stays, details do not
FILES = {
    "image": "image",
    "image[]": "image",
    "mask": "mask",
}  # form field -> what it is; OpenAI's client sends image[]


class EditRequest(ImageRequest):
    """The text fields of `POST /v1/images/edits`."""

    model_config = ConfigDict(strict=False)  # form fields are always text, so "2" must do for a number

    strength: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    """Share of the denoising steps to run: near 0 keeps all of the image, 1 nothing; default 0.8, with a mask 1."""

    @property
    def event_prefix(self) -> str:
        """Of the types of stream events."""
        return "image_edit"

    def strength_of(self, *, has_mask: bool) -> float:
        """Return the share of the steps to run."""
        if self.strength is not None:
            return self.strength
        # With a mask, the region to change is known, so it is regenerated from noise alone.
        return 1.0 if has_mask else GenerationRequest.strength


class VariationRequest(EditRequest):
    """The text fields of `POST /v1/images/variations`."""

    prompt: PromptText = ""
    """What to steer towards; none by default."""
    strength: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    """Share of the denoising steps to run: near 0 keeps all of the image, 1 nothing; default 0.6."""

    def strength_of(self, *, has_mask: bool) -> float:
        """Return the share of the steps to run."""
        return super().strength_of(has_mask=has_mask) if self.strength or has_mask else VARIATION_STRENGTH


@dataclass(frozen=True)
class ImageEdit:
    """A validated edit: its fields and its image files."""

    request: EditRequest
    image: bytes
    mask: bytes  # empty if there is none

    async def prepared(self, limits: RequestLimits) -> ImageEdit:
        """Return the edit with its images decoded and scaled to the canvas, in a process apart; raises as `POOL`."""
        width_px, height_px = parse_size(self.request.size)
        image, mask = await POOL.prepare(
            self.image, self.mask, width_px or limits.width_px, height_px or limits.height_px
        )
        return replace(self, image=image, mask=mask)

    def generation_requests(self, seed: int, limits: RequestLimits) -> list[GenerationRequest]:
        """Return one engine request per image, as `ImageRequest.generation_requests`."""
        strength = self.request.strength_of(has_mask=bool(self.mask))
        return [replace(request, image=self.image, mask=self.mask, strength=strength)
                for request in self.request.generation_requests(seed, limits)]  # fmt: skip


@dataclass(frozen=True)
class EditForm:
    """A parsed form whose text fields are not validated yet."""

    texts: Mapping[str, str]
    files: Mapping[str, bytes]  # "image", and "mask" if there is one

    def validate(self, models: Mapping[str, RequestLimits], schema: type[EditRequest] = EditRequest) -> ImageEdit:
        """Return the edit that the form asks for; raises RequestError if a field is refused."""
        request = validate_request(schema, self.texts, models)
        return ImageEdit(request, self.files["image"], self.files.get("mask", b""))

    def parts(self, schema: type[EditRequest]) -> list[bytes]:
        """Return what is equal in a repetition of the form, whose boundary may differ."""
        texts = json.dumps(dict(sorted(self.texts.items()))).encode()
        return [schema.__name__.encode(), texts, *(part for name in sorted(self.files) for part in
                                                   (name.encode(), self.files[name]))]  # fmt: skip


async def read_form(request: Request) -> EditForm:
    """Read the form of a request; its images are not decoded yet.

    Raises:
        RequestError: The body is not a form, or it is too long.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise RequestError("the body must be multipart/form-data with the fields image and prompt", status=415)
    # Starlette spools files to disk while they arrive, so slow uploads do not add up in memory. The limits on fields
    # bound what it parses for a form of a million empty fields.
    form = limit_body(request, MAX_BODY_BYTES).form(max_files=8, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES)
    async with form as parts:
        return EditForm(_texts(parts), await _files(parts))


def _texts(form: FormData) -> dict[str, str]:
    texts: dict[str, str] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            continue
        # Without a file name in its header, a part of a form is text (RFC 7578, section 4.2), whatever its bytes are.
        if name in FILES:
            raise RequestError(f"{name} must be a file, with a file name in the form", param=FILES[name])
        if name in texts:
            raise RequestError(f"the field {name!r} appears twice", param=name)
        texts[name] = value
    return texts


async def _files(form: FormData) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for name, value in form.multi_items():
        if not isinstance(value, UploadFile):
            continue
        if name not in FILES:
            raise RequestError(f"unknown file {name!r}; send image and mask", param=name, code="unknown_parameter")
        if FILES[name] in files:
            raise RequestError("there are several images; this service starts from one", param=FILES[name])
        if (value.size or 0) > MAX_FILE_BYTES:
            raise RequestError(f"{name} is longer than {MAX_FILE_BYTES:,} bytes", status=413, param=FILES[name])
        if not value.size:
            raise RequestError(f"the file {name!r} is empty", param=FILES[name])
        # Read here, because the spooled file is deleted when the form is closed.
        files[FILES[name]] = await value.read()
    if "image" not in files:
        raise RequestError("the file 'image' is missing", param="image", code="missing_required_parameter")
    return files
