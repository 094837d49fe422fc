"""The table of a bulk job: one row per image, generated or failed with a reason."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
from PIL import Image

from emoji_ldm.generate.output_folder import file_name
from emoji_ldm.schemas import IMAGE_TYPE, TableSpec
from emoji_ldm.serve.bulk.bulk_job import JobItem
from emoji_ldm.serve.image_encoding import EncodingOptions, convert

ItemRow = dict[str, Any]
# Prefix of reasons that are faults of the service, not of the request: `batch_files` answers 500 for them, else 400.
RETRIES_EXHAUSTED = "given up after several tries"

# The request's columns are repeated in each row, so that the table can be used without the job: as a dataset, or for
# another run with the same parameters.
ITEMS = TableSpec(
    "items",
    pa.schema([
        ("item_id", pa.string()),        # index within the job, 8 digits
        ("custom_id", pa.string()),
        ("number", pa.int32()),          # among the images of its custom_id, from 0
        ("style", pa.string()),          # template that the prompt was put into; empty if none
        ("status", pa.string()),         # ok | failed
        ("reason", pa.string()),
        ("image", IMAGE_TYPE),           # file and its name; null if failed
        ("size", pa.int32()),            # bytes of the file
        ("prompt", pa.string()),
        ("negative_prompt", pa.string()),
        ("seed", pa.int64()),
        ("steps", pa.int32()),
        ("guidance_scale", pa.float64()),
        ("scheduler", pa.string()),      # empty: the model's default
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("lora", pa.string()),
        ("model", pa.string()),
        ("model_key", pa.string()),      # hash of what determines the model's pixels, read from the PNG
    ]),
    "item_id",
)  # fmt: skip


def completed_row(item: JobItem, png: bytes) -> ItemRow:
    """Return the row of a generated image. If the line has an `output`, encoding takes long enough for a thread.

    Raises:
        OSError: The bytes are not an image.
    """
    # The backend chose the size if the request named none, so it is read from the image.
    with Image.open(io.BytesIO(png)) as image:  # reads the header only
        (width, height), key = image.size, str(image.info.get("model_key", ""))
    name = file_name(item.index, item.request.prompt, item.request.seed)
    output = EncodingOptions(**item.line.output)
    # A line without output options keeps the engine's bytes, which equal those of the synchronous route.
    data = convert(png, output).data if item.line.output else png
    file = {"bytes": data, "path": f"{name.removesuffix('png')}{output.format}"}
    return {**_request_columns(item), "status": "ok", "reason": "", "image": file, "size": len(data), "width": width,
            "height": height, "model_key": key}  # fmt: skip


def failed_row(item: JobItem, reason: str) -> ItemRow:
    """Return the row of an image that cannot be generated."""
    return {**_request_columns(item), "status": "failed", "reason": reason, "image": None, "size": 0,
            "width": item.request.width_px, "height": item.request.height_px, "model_key": ""}  # fmt: skip


def unstorable_row(row: ItemRow, reason: str) -> ItemRow:
    """Return a failed row for one that Parquet cannot hold: no image, and lone surrogates escaped in its texts."""
    texts = {name: value.encode(errors="backslashreplace").decode() for name, value in row.items()
             if isinstance(value, str)}  # fmt: skip
    return {**row, **texts, "status": "failed", "reason": reason, "image": None, "size": 0, "model_key": ""}


def _request_columns(item: JobItem) -> ItemRow:
    line, request = item.line, item.request
    return {
        "item_id": f"{item.index:08d}",
        "custom_id": line.custom_id,
        "number": item.number,
        "style": line.style,
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "seed": request.seed,
        "steps": request.steps,
        "guidance_scale": request.guidance_scale,
        "scheduler": request.scheduler,
        "lora": request.lora,
        "model": line.model,
    }
