"""The rows of a bulk job: one per picture, drawn or refused with a reason."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from PIL import Image

from emoji_ldm.generate.output_folder import file_name
from emoji_ldm.schemas import IMAGE_TYPE, TableSpec
from emoji_ldm.serve.image_encoding import EncodingOptions, convert

if TYPE_CHECKING:
    from emoji_ldm.serve.bulk.shards import JobItem

ItemRow = dict[str, Any]
RETRIES_EXHAUSTED = "given up after several tries"  # how reasons begin that are not the request's fault

ITEMS = TableSpec(
    "items",
    pa.schema([
        ("item_id", pa.string()),        # place in the job, 8 digits
        ("custom_id", pa.string()),
        ("number", pa.int32()),          # among the pictures of its custom_id, from 0
        ("style", pa.string()),          # template that the prompt went through; empty if none
        ("status", pa.string()),         # ok | failed
        ("reason", pa.string()),
        ("image", IMAGE_TYPE),                # file and its name; null if failed
        ("size", pa.int32()),            # bytes of the file
        ("prompt", pa.string()),
        ("negative_prompt", pa.string()),
        ("seed", pa.int64()),
        ("steps", pa.int32()),
        ("guidance_scale", pa.float64()),
        ("scheduler", pa.string()),      # empty: the model's own
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("lora", pa.string()),
        ("model", pa.string()),
        ("model_key", pa.string()),      # hash of what decides the model's pixels, from the PNG
    ]),
    "item_id",
)  # fmt: skip


def completed_row(picture: JobItem, png: bytes) -> ItemRow:
    """The row of a picture; slow enough for a thread if its line has an `output`.

    Raises:
        OSError: These bytes are no picture.
    """
    with Image.open(io.BytesIO(png)) as image:  # reads the header only
        (width, height), key = image.size, str(image.info.get("model_key", ""))
    name, output = (
        file_name(picture.index, picture.draw.prompt, picture.draw.seed),
        EncodingOptions(**picture.line.output),
    )
    data = convert(png, output).data if picture.line.output else png
    file = {"bytes": data, "path": f"{name.removesuffix('png')}{output.format}"}
    return {**_request_columns(picture), "status": "ok", "reason": "", "image": file, "size": len(data), "width": width,
            "height": height, "model_key": key}  # fmt: skip


def failed_row(picture: JobItem, reason: str) -> ItemRow:
    """The row of a picture that cannot be drawn."""
    return {**_request_columns(picture), "status": "failed", "reason": reason, "image": None, "size": 0,
            "width": picture.draw.width_px, "height": picture.draw.height_px, "model_key": ""}  # fmt: skip


def unstorable_row(row: ItemRow, reason: str) -> ItemRow:
    """A row that cannot be kept, without its picture and with texts that any file can hold."""
    texts = {name: value.encode(errors="backslashreplace").decode() for name, value in row.items()
             if isinstance(value, str)}  # fmt: skip
    return {**row, **texts, "status": "failed", "reason": reason, "image": None, "size": 0, "model_key": ""}


def _request_columns(picture: JobItem) -> ItemRow:
    line, draw = picture.line, picture.draw
    return {
        "item_id": f"{picture.index:08d}",
        "custom_id": line.custom_id,
        "number": picture.number,
        "style": line.style,
        "prompt": draw.prompt,
        "negative_prompt": draw.negative_prompt,
        "seed": draw.seed,
        "steps": draw.steps,
        "guidance_scale": draw.guidance_scale,
        "scheduler": draw.scheduler,
        "lora": draw.lora,
        "model": line.model,
    }
