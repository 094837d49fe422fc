"""What a `generate` run leaves for people: PNG files, a contact sheet and a CSV list of the settings.

The contact sheet, a grid of cards with an image and its prompt each, also goes with bulk sets and training previews.
"""

from __future__ import annotations

import csv
import functools
import io
import math
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.prompt_text import EMOJI, replace_emoji

IMAGE_SIDE_PX = 128
MARGIN_PX = 12
LINE_PX = 17
MAX_CAPTION_LINES = 3
# More than three lines hold. The text is cut before it is wrapped, as measuring takes time in proportion to its length.
MAX_CAPTION_CHARACTERS = 200
FONT_PX = 12
INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff\U000e0000-\U000e007f]")
UNKNOWN = "?"  # stands for characters that the font has no glyph for
PAGE, CARD, EDGE, CHECK, INK = "#eef0f3", "#ffffff", "#d9dde3", "#f1f3f5", "#30363d"

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
# Settings that the table has no column for; they are read from the PNG file's text chunks.
PNG_TEXT_COLUMNS = ("sampler", "width_px", "height_px", "image_sha256", "mask_sha256", "strength", "lora")
CSV_COLUMNS = ("file", "prompt", "negative_prompt", "seed", "steps", "guidance_scale", *PNG_TEXT_COLUMNS, "model_key",
               "generated_id")  # fmt: skip
MAX_ON_SHEET = 120


def contact_sheet(images: Sequence[tuple[bytes, str]], columns: int = 0) -> bytes:
    """PNG bytes of a grid of cards.

    Args:
        images: (PNG, caption), in reading order; at least one.
        columns: Cards per row; 0 chooses a number that makes the sheet a little wider than high.

    Raises:
        ValueError: There are no images.
    """
    if not images:
        raise ValueError("a contact sheet needs at least one image")
    # Cards are higher than wide, so 1.6 times as many columns as rows give a sheet of screen proportions.
    columns = columns or min(max(4, math.ceil(math.sqrt(len(images) * 1.6))), 12, len(images))
    font = caption_font()
    captions = [_wrap(caption, font) for _, caption in images]
    width = IMAGE_SIDE_PX + 2 * MARGIN_PX
    # All cards are as high as the one with the longest caption, so that the rows of the sheet line up.
    height = IMAGE_SIDE_PX + 2 * MARGIN_PX + LINE_PX * max(len(lines) for lines in captions) + MARGIN_PX // 2
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * (width + MARGIN_PX) + MARGIN_PX, rows * (height + MARGIN_PX) + MARGIN_PX), PAGE)
    for index, ((png, _), lines) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(index, columns)
        corner = (MARGIN_PX + column * (width + MARGIN_PX), MARGIN_PX + row * (height + MARGIN_PX))
        sheet.paste(_card(png, lines, (width, height), font), corner)
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()


def _card(png: bytes, lines: Sequence[str], size: tuple[int, int], font: Font) -> Image.Image:
    card = Image.new("RGB", size, PAGE)
    draw = ImageDraw.Draw(card)
    draw.rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), radius=8, fill=CARD, outline=EDGE)
    image = _scale_to_card(Image.open(io.BytesIO(png)).convert("RGBA"))
    background = _checkerboard()
    # `alpha_composite` rather than `paste`: it blends transparent edges with the checkerboard correctly.
    background.alpha_composite(image, ((IMAGE_SIDE_PX - image.width) // 2, (IMAGE_SIDE_PX - image.height) // 2))
    card.paste(background, (MARGIN_PX, MARGIN_PX))
    for index, line in enumerate(lines):
        # The anchor "ma" centres each line, so the width of the text need not be measured again.
        top = IMAGE_SIDE_PX + 2 * MARGIN_PX + index * LINE_PX - 4
        draw.text((size[0] // 2, top), line, fill=INK, font=font, anchor="ma")
    return card


def _scale_to_card(image: Image.Image) -> Image.Image:
    """Scale an image to the card: up by an integer factor only, which keeps small images crisp; down smoothly."""
    longest = max(image.size)
    if longest > IMAGE_SIDE_PX:
        scaled = image.copy()
        scaled.thumbnail((IMAGE_SIDE_PX, IMAGE_SIDE_PX), Image.Resampling.LANCZOS)
        return scaled
    # At least 1, as larger images were handled above.
    factor = IMAGE_SIDE_PX // longest
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)


def _checkerboard(cell_px: int = 8) -> Image.Image:
    """A light checkerboard, which shows where an image is transparent."""
    board = Image.new("RGBA", (IMAGE_SIDE_PX, IMAGE_SIDE_PX), CARD)
    draw = ImageDraw.Draw(board)
    for top in range(0, IMAGE_SIDE_PX, cell_px):
        # Every second row of cells starts one cell further right; only the dark cells are drawn.
        for left in range(top % (2 * cell_px), IMAGE_SIDE_PX, 2 * cell_px):
            draw.rectangle((left, top, left + cell_px - 1, top + cell_px - 1), fill=CHECK)
    return board


def _wrap(text: str, font: Font) -> list[str]:
    """Wrap a caption into lines that fit a card, at most three; a longer caption ends in an ellipsis."""
    lines: list[str] = []
    text = _without_boxes(_with_named_emoji(text[:MAX_CAPTION_CHARACTERS])) + "…" * (len(text) > MAX_CAPTION_CHARACTERS)
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        # A word that is wider than the card gets a line of its own, which `_truncate` shortens.
        if lines and font.getlength(longer) <= IMAGE_SIDE_PX + MARGIN_PX:
            lines[-1] = longer
        else:
            lines.append(word)
        if len(lines) > MAX_CAPTION_LINES:
            break
    shown = lines[:MAX_CAPTION_LINES]
    if len(lines) > MAX_CAPTION_LINES:
        shown[-1] += "…"
    return [_truncate(line, font) for line in shown]


def _with_named_emoji(text: str) -> str:
    """A caption with its emoji characters as words: no font that we have has glyphs for all of them."""
    try:
        return replace_emoji(text)
    except ConfigError:  # without the package that has the names; the rest of the caption still says what it is
        return " ".join(EMOJI.sub(" ", text).split())


def _without_boxes(text: str) -> str:
    """A caption without characters that would be drawn as boxes; a run of them becomes one `UNKNOWN`."""
    # Composed, as the font has a glyph for "é" but does not place an accent on a letter. Invisible characters, such as
    # joiners and tags of flags, are left out.
    composed = INVISIBLE.sub("", unicodedata.normalize("NFC", text))
    plain = "".join(one if one.isspace() or ord(one) in _glyphs() else "\0" for one in composed)
    return re.sub("\0+", UNKNOWN, plain)


@functools.cache
def caption_font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib; Pillow's own font has no letters beyond English."""
    return ImageFont.truetype(_font_path(), FONT_PX)


@functools.cache
def _glyphs() -> frozenset[int]:
    """The characters that the font can draw."""
    from fontTools.ttLib import TTFont

    with TTFont(_font_path()) as font:
        return frozenset(font.getBestCmap())


def _font_path() -> Path:
    # Found without an import of matplotlib, which takes a second.
    spec = find_spec("matplotlib")
    assert spec is not None and spec.origin is not None, "matplotlib is a dependency"
    return Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"


def _truncate(line: str, font: Font) -> str:
    """The line, or as much of it as fits the card followed by an ellipsis.

    A binary search keeps the number of measured characters small for lines without a space to wrap at.
    """
    width = float(IMAGE_SIDE_PX + 2 * MARGIN_PX - 4)
    if font.getlength(line) <= width:
        return line
    too_long = bisect_right(range(len(line)), width, key=lambda length: font.getlength(line[:length] + "…"))
    return line[: too_long - 1] + "…"


def write_output_folder(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows of the table `generated` as files; files that are right already are not touched.

    Files of earlier runs stay; prompts.csv lists the files of this run.

    Returns:
        Path of the contact sheet, which shows the first 120 images.

    Raises:
        ConfigError: The folder cannot be written.
    """
    names = [file_name(index, row["prompt"], row["seed"]) for index, row in enumerate(rows)]
    # Everything is prepared in memory first: a bad row must not leave a half-written folder.
    table = io.StringIO()
    writer = csv.DictWriter(table, CSV_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    # A setting that both state is taken from the row: the table is what the data set's readers see.
    writer.writerows({**_png_text(row["image"]["bytes"]), **row, "file": name}
                     for name, row in zip(names, rows, strict=True))  # fmt: skip
    sheet_png = contact_sheet([(row["image"]["bytes"], row["prompt"]) for row in rows[:MAX_ON_SHEET]])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, row in zip(names, rows, strict=True):
            _write_if_changed(folder / name, row["image"]["bytes"])
        _write_if_changed(folder / "prompts.csv", table.getvalue().encode())
        _write_if_changed(folder / "sheet.png", sheet_png)
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error}; choose another folder with generate.output=...") from None
    return folder / "sheet.png"


# python-slugify would do this, but it transliterates other alphabets: existing folders would get a second set of names.
def file_name(index: int, prompt: str, seed: int) -> str:
    """`NNNN_<prompt>_<seed>.png`, made of characters that every file system accepts."""
    # NFKD splits an accented letter into the letter and its accent, so "café" becomes "cafe" and not "caf".
    ascii_text = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    # 40 characters keep names below the limits of file systems; the number and the seed keep them distinct.
    slug = re.sub(r"[^a-z0-9]+", "-", ascii_text)[:40].strip("-") or "emoji"
    return f"{index:04d}_{slug}_{seed}.png"


def _png_text(png: bytes) -> dict[str, str]:
    """The settings that only the PNG file states."""
    text = Image.open(io.BytesIO(png)).text  # type: ignore[attr-defined]
    return {name: text[name] for name in PNG_TEXT_COLUMNS if name in text}


def _write_if_changed(path: Path, data: bytes) -> None:
    """Keep the modification time of files that are right, so that `rsync` and file managers see what is new."""
    if not (path.is_file() and path.read_bytes() == data):
        path.write_bytes(data)
