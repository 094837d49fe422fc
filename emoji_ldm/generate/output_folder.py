"""The folder that a `generate` run leaves for people: PNG files, a contact sheet and a CSV list of the settings."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.contact_sheet import contact_sheet

# Settings that the table has no column for; they are read from the PNG file's text chunks.
PNG_TEXT_COLUMNS = ("sampler", "width_px", "height_px", "image_sha256", "mask_sha256", "strength", "lora")
CSV_COLUMNS = ("file", "prompt", "negative_prompt", "seed", "steps", "guidance_scale", *PNG_TEXT_COLUMNS, "model_key",
               "generated_id")  # fmt: skip
MAX_ON_SHEET = 120


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
