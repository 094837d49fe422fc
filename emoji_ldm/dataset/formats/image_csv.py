"""Format `csv`: `images/{tag}_{index:07d}.jpg` and `metadata.csv` (file_name, image_url, image_title, tag)."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from PIL import Image, ImageColor

from emoji_ldm.dataset.formats.atomic_output import open_output_file
from emoji_ldm.dataset.formats.export_options import ExportPlan, Row
from emoji_ldm.errors import ConfigError
from emoji_ldm.store import Store

COLUMNS = ("file_name", "image_url", "image_title", "tag")
UNTAGGED = "untagged"
# Chroma subsampling halves the colour resolution, which shows on the sharp edges of emoji; 0 turns it off.
JPEG = {"quality": 95, "subsampling": 0}


def write_image_csv(output: Store, rows: Iterable[Row], plan: ExportPlan) -> None:
    """Write images numbered per tag, and metadata.csv; a folder per part of a split. Captions add a column `prompt`."""
    columns = [*COLUMNS, "prompt"] if plan.captioned else [*COLUMNS]
    numbers = Counter[tuple[str, str]]()
    with ExitStack() as stack:
        # The CSV files stay open for the whole export, since rows of all parts arrive interleaved.
        tables = {part: _table(stack, output, plan, part, columns) for part in plan.parts}
        for row in rows:
            tag = row["tags"][0] if row["tags"] else UNTAGGED
            # Tags come from the web and may contain slashes or spaces. Tags that give the same stem share one
            # numbering, so that no image overwrites another.
            stem = re.sub(r"[^\w.-]+", "_", tag)
            number = numbers[row["part"], stem]
            numbers[row["part"], stem] += 1
            name = f"images/{stem}_{number:07d}.{plan.options.images}"
            with open_output_file(output, *_folder(plan, row["part"]), name) as file:
                file.write(_encode_image(row["image"]["bytes"], plan))
            # The last cell is the caption; it is cut off where no image has one, and the column with it.
            cells = (name, row["source_url"], row["title"], tag, row["caption"] or "")
            tables[row["part"]].writerow(cells[: len(columns)])


def check_options(plan: ExportPlan) -> None:
    """ConfigError for an unknown colour or image format."""
    if plan.options.images not in ("jpg", "png"):
        raise ConfigError(f"export images={plan.options.images!r} is unknown; use jpg or png")
    _background_color(plan)


def _folder(plan: ExportPlan, part: str) -> tuple[str, ...]:
    return (part,) if plan.options.splits else ()


def _table(stack: ExitStack, output: Store, plan: ExportPlan, part: str, columns: list[str]) -> Any:
    file = stack.enter_context(open_output_file(output, *_folder(plan, part), "metadata.csv"))
    text = stack.enter_context(io.TextIOWrapper(file, encoding="utf-8", newline=""))
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    return table


def _encode_image(png: bytes, plan: ExportPlan) -> bytes:
    if plan.options.images == "png":
        return png
    with Image.open(io.BytesIO(png)) as image:
        picture = image.convert("RGBA")
    # JPEG has no alpha, and dropping it would show whatever colour the invisible pixels happen to hold.
    ground = Image.new("RGBA", picture.size, _background_color(plan))
    out = io.BytesIO()
    Image.alpha_composite(ground, picture).convert("RGB").save(out, "JPEG", **JPEG)
    return out.getvalue()


def _background_color(plan: ExportPlan) -> tuple[int, ...]:
    colour = plan.options.background
    try:
        return ImageColor.getcolor(colour, "RGB")  # type: ignore[return-value]
    except ValueError:
        raise ConfigError(f"background {colour!r} is no colour; write a name such as white, or #rrggbb") from None
