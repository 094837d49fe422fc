"""A contact sheet: cards with a picture each and the prompt beneath.

A folder that people open: PNG files, a contact sheet, and a list of what is what.
"""

from __future__ import annotations

import csv
import io
import math
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from emoji_ldm.errors import ConfigError

IMAGE_SIDE_PX = 128  # of a picture on its card
MARGIN_PX = 12
LINE_PX = 17
MAX_CAPTION_LINES = 3
MAX_CAPTION_CHARACTERS = 200  # more than three lines hold; the time to measure grows with them
FONT_PX = 13
PAGE, CARD, EDGE, CHECK, INK = "#eef0f3", "#ffffff", "#d9dde3", "#f1f3f5", "#30363d"


def contact_sheet(pictures: Sequence[tuple[bytes, str]], columns: int = 0) -> bytes:
    """PNG bytes of a grid of cards.

    Args:
        pictures: (PNG, caption), in reading order; at least one.
        columns: Cards per row; 0 takes what makes the sheet a little wider than high.

    Raises:
        ValueError: There are no pictures.
    """
    if not pictures:
        raise ValueError("a contact sheet needs at least one picture")
    columns = columns or min(max(4, math.ceil(math.sqrt(len(pictures) * 1.6))), 12, len(pictures))
    font = ImageFont.load_default(FONT_PX)
    captions = [_wrap(caption, font) for _, caption in pictures]
    width = IMAGE_SIDE_PX + 2 * MARGIN_PX
    height = IMAGE_SIDE_PX + 2 * MARGIN_PX + LINE_PX * max(len(lines) for lines in captions) + MARGIN_PX // 2
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * (width + MARGIN_PX) + MARGIN_PX, rows * (height + MARGIN_PX) + MARGIN_PX), PAGE)
    for place, ((png, _), lines) in enumerate(zip(pictures, captions, strict=True)):
        row, column = divmod(place, columns)
        corner = (MARGIN_PX + column * (width + MARGIN_PX), MARGIN_PX + row * (height + MARGIN_PX))
        sheet.paste(_card(png, lines, (width, height), font), corner)
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()


def _card(png: bytes, lines: Sequence[str], size: tuple[int, int], font: _Font) -> Image.Image:
    card = Image.new("RGB", size, PAGE)
    draw = ImageDraw.Draw(card)
    draw.rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), radius=8, fill=CARD, outline=EDGE)
    picture = _fit(Image.open(io.BytesIO(png)).convert("RGBA"))
    background = _checkerboard()
    background.alpha_composite(picture, ((IMAGE_SIDE_PX - picture.width) // 2, (IMAGE_SIDE_PX - picture.height) // 2))
    card.paste(background, (MARGIN_PX, MARGIN_PX))
    for index, line in enumerate(lines):
        top = IMAGE_SIDE_PX + 2 * MARGIN_PX + index * LINE_PX - 4
        draw.text((size[0] // 2, top), line, fill=INK, font=font, anchor="ma")
    return card


def _fit(picture: Image.Image) -> Image.Image:
    """The picture scaled to the card: up by a whole factor so that pixels stay square, down smoothly."""
    longest = max(picture.size)
    if longest > IMAGE_SIDE_PX:
        scaled = picture.copy()
        scaled.thumbnail((IMAGE_SIDE_PX, IMAGE_SIDE_PX), Image.Resampling.LANCZOS)
        return scaled
    factor = IMAGE_SIDE_PX // longest
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC)


def _checkerboard(cell_px: int = 8) -> Image.Image:
    """A light board that shows where a picture is transparent."""
    board = Image.new("RGBA", (IMAGE_SIDE_PX, IMAGE_SIDE_PX), CARD)
    draw = ImageDraw.Draw(board)
    for top in range(0, IMAGE_SIDE_PX, cell_px):
        for left in range(top % (2 * cell_px), IMAGE_SIDE_PX, 2 * cell_px):
            draw.rectangle((left, top, left + cell_px - 1, top + cell_px - 1), fill=CHECK)
    return board


_Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def _wrap(text: str, font: _Font) -> list[str]:
    """Up to three lines that fit a card; a longer text ends in an ellipsis."""
    lines: list[str] = []
    for word in text[:MAX_CAPTION_CHARACTERS].split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= IMAGE_SIDE_PX + MARGIN_PX:
            lines[-1] = longer
        else:
            lines.append(word)
    shown = lines[:MAX_CAPTION_LINES]
    if len(lines) > MAX_CAPTION_LINES:
        shown[-1] += "…"
    return [_truncate(line, font) for line in shown]


def _truncate(line: str, font: _Font) -> str:
    """The line, or as much of it as a card holds, and an ellipsis."""
    width = float(IMAGE_SIDE_PX + 2 * MARGIN_PX - 4)
    if font.getlength(line) <= width:
        return line
    longer = bisect_right(range(len(line)), width, key=lambda length: font.getlength(line[:length] + "…"))
    return line[: longer - 1] + "…"


PNG_TEXT_COLUMNS = (
    "sampler",
    "width_px",
    "height_px",
    "image_sha256",
    "mask_sha256",
    "strength",
    "lora",
)  # by the files alone
CSV_COLUMNS = (
    "file",
    "prompt",
    "negative_prompt",
    "seed",
    "steps",
    "guidance_scale",
    *PNG_TEXT_COLUMNS,
    "model_key",
    "generated_id",
)
MAX_ON_SHEET = 120


def write_output_folder(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows of the table `generated` as files; those that are right already are left alone.

    Returns:
        The contact sheet, with the first 120 pictures. Files of earlier runs stay; prompts.csv lists this run's.

    Raises:
        ConfigError: The folder cannot be written.
    """
    names = [file_name(index, row["prompt"], row["seed"]) for index, row in enumerate(rows)]
    table = io.StringIO()
    writer = csv.DictWriter(table, CSV_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({**_png_text(row["image"]["bytes"]), **row, "file": name}
                     for name, row in zip(names, rows, strict=True))  # fmt: skip
    sheet = contact_sheet([(row["image"]["bytes"], row["prompt"]) for row in rows[:MAX_ON_SHEET]])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, row in zip(names, rows, strict=True):
            _write_if_changed(folder / name, row["image"]["bytes"])
        _write_if_changed(folder / "prompts.csv", table.getvalue().encode())
        _write_if_changed(folder / "sheet.png", sheet)
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error}; choose another folder with generate.output=...") from None
    return folder / "sheet.png"


def file_name(index: int, prompt: str, seed: int) -> str:
    """`NNNN_<prompt>_<seed>.png` of characters that every file system takes."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain)[:40].strip("-") or "emoji"
    return f"{index:04d}_{slug}_{seed}.png"


def _png_text(png: bytes) -> dict[str, str]:
    """What a file says of itself beyond the table's columns."""
    text = Image.open(io.BytesIO(png)).text  # type: ignore[attr-defined]
    return {name: text[name] for name in PNG_TEXT_COLUMNS if name in text}


def _write_if_changed(path: Path, data: bytes) -> None:
    if not (path.is_file() and path.read_bytes() == data):
        path.write_bytes(data)
