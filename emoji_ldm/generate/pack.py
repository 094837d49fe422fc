"""A folder that people open: PNG files, a contact sheet, and a list of what is what."""

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
from emoji_ldm.generate.sheet import contact_sheet

TOLD = ("sampler", "width_px", "height_px", "image_sha256", "mask_sha256", "strength", "lora")  # by the files alone
COLUMNS = ("file", "prompt", "negative_prompt", "seed", "steps", "guidance_scale", *TOLD, "model_key", "generated_id")
MAX_ON_SHEET = 120


def write_pack(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows of the table `generated` as files; those that are right already are left alone.

    Returns:
        The contact sheet, with the first 120 pictures. Files of earlier runs stay; prompts.csv lists this run's.

    Raises:
        ConfigError: The folder cannot be written.
    """
    names = [file_name(index, row["prompt"], row["seed"]) for index, row in enumerate(rows)]
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({**_told(row["image"]["bytes"]), **row, "file": name}
                     for name, row in zip(names, rows, strict=True))  # fmt: skip
    sheet = contact_sheet([(row["image"]["bytes"], row["prompt"]) for row in rows[:MAX_ON_SHEET]])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, row in zip(names, rows, strict=True):
            _write(folder / name, row["image"]["bytes"])
        _write(folder / "prompts.csv", table.getvalue().encode())
        _write(folder / "sheet.png", sheet)
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error}; choose another folder with generate.output=...") from None
    return folder / "sheet.png"


def file_name(index: int, prompt: str, seed: int) -> str:
    """`NNNN_<prompt>_<seed>.png` of characters that every file system takes."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain)[:40].strip("-") or "emoji"
    return f"{index:04d}_{slug}_{seed}.png"


def _told(png: bytes) -> dict[str, str]:
    """What a file says of itself beyond the table's columns."""
    text = Image.open(io.BytesIO(png)).text  # type: ignore[attr-defined]
    return {name: text[name] for name in TOLD if name in text}


def _write(path: Path, data: bytes) -> None:
    if not (path.is_file() and path.read_bytes() == data):
        path.write_bytes(data)
