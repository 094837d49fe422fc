"""Requests for pictures that start from a picture: the form of `POST /v1/images/edits`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import ConfigDict, Field
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.image_inputs import check_image_inputs
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.serve.backend import RequestLimits
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.image_encoding import in_image_thread
from emoji_ldm.serve.image_requests import ImageRequest, validate_request
from emoji_ldm.serve.request_body import limit_body

MAX_FILE_BYTES = 8 * 2**20
MAX_BODY_BYTES = 2 * MAX_FILE_BYTES + 256 * 1024
MAX_FIELD_BYTES = 64 * 1024
MAX_FIELDS = 40
FILES = {"image": "image", "image[]": "image", "mask": "mask"}


class EditRequest(ImageRequest):
    """The text fields of `POST /v1/images/edits`."""

    model_config = ConfigDict(strict=False)  # forms hold nothing but text

    strength: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    """How much is drawn anew: near 0 keeps all of the picture, 1 nothing. 0.8 if absent, with a mask 1."""


@dataclass(frozen=True)
class ImageEdit:
    """A form: its fields and its pictures."""

    request: EditRequest
    image: bytes
    mask: bytes

    def draws(self, seed: int, limits: RequestLimits) -> list[GenerationRequest]:
        """One draw per image."""
        strength = self.request.strength
        if strength is None:
            strength = 1.0 if self.mask else GenerationRequest.strength
        return [replace(draw, image=self.image, mask=self.mask, strength=strength)
                for draw in self.request.draws(seed, limits)]  # fmt: skip


@dataclass(frozen=True)
class EditForm:
    """A form as it was sent."""

    texts: Mapping[str, str]
    files: Mapping[str, bytes]  # image, perhaps mask

    def edit(self, models: Mapping[str, RequestLimits]) -> ImageEdit:
        """What it asks for; RequestError if a field is refused."""
        return ImageEdit(
            validate_request(EditRequest, self.texts, models), self.files["image"], self.files.get("mask", b"")
        )


async def read_form(request: Request) -> EditForm:
    """The form of a request; RequestError if it is none, too long, or a picture in it cannot be read."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise RequestError("the body must be multipart/form-data with the fields image and prompt", status=415)
    form = limit_body(request, MAX_BODY_BYTES).form(max_files=8, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES)
    async with form as parts:
        sent = EditForm(_texts(parts), await _files(parts))
    await in_image_thread(_check, sent.files)
    return sent


def _texts(form: FormData) -> dict[str, str]:
    texts: dict[str, str] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            continue
        if name in FILES:
            raise RequestError(f"{name} must be a file, with a file name in the form", param=FILES[name])
        if name in texts:
            raise RequestError(f"the field {name!r} is there twice", param=name)
        texts[name] = value
    return texts


async def _files(form: FormData) -> dict[str, bytes]:
    """The files' bytes by `image` and `mask`."""
    found: dict[str, bytes] = {}
    for name, value in form.multi_items():
        if not isinstance(value, UploadFile):
            continue
        if name not in FILES:
            raise RequestError(f"unknown file {name!r}; send image and mask", param=name, code="unknown_parameter")
        if FILES[name] in found:
            raise RequestError("there are several pictures; this service starts from one", param=FILES[name])
        if (value.size or 0) > MAX_FILE_BYTES:
            raise RequestError(f"{name} is longer than {MAX_FILE_BYTES:,} bytes", status=413, param=FILES[name])
        if not value.size:
            raise RequestError(f"the file {name!r} is empty", param=FILES[name])
        found[FILES[name]] = await value.read()
    if "image" not in found:
        raise RequestError("the file 'image' is missing", param="image", code="missing_required_parameter")
    return found


def _check(files: Mapping[str, bytes]) -> None:
    try:
        check_image_inputs(GenerationRequest("", image=files["image"], mask=files.get("mask", b"")))
    except ConfigError as error:
        param = "mask" if str(error).startswith("mask") else "image"
        raise RequestError(str(error), param=param) from None
