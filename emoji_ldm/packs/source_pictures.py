"""What a pack is made from: PNG files with the prompts and the provenance that they state.

A folder may come from `emoji-ldm generate -o`, `emoji-ldm sets fetch`, `emoji-ldm dataset export` or from anywhere.
Text chunks of a PNG win over rows of `prompts.csv` or `metadata.csv` beside it, as they travel with the file.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emoji_ldm.errors import ConfigError
from emoji_ldm.images.decode import decode_image
from emoji_ldm.packs.emoji_names import slug

SUFFIXES = (".png", ".webp", ".jpg", ".jpeg")
CONTACT_SHEET = "sheet.png"  # of `generate` and `sets fetch`
LISTS = ("prompts.csv", "metadata.csv")
CSV_NAMES = {"image_url": "source_url", "image_title": "title"}  # columns of `dataset export csv`
MAX_SIDE_PX = 2048
MAX_FILE_BYTES = 8 * 2**20
MAX_TEXT = 2000  # characters of one statement that are kept
# What is told of a picture's origin in the manifest; other text chunks may hold anything.
STATEMENTS = (
    "prompt", "negative_prompt", "seed", "steps", "guidance_scale", "scheduler", "strength", "lora", "model_key",
    "made_with", "mode", "image_sha256", "mask_sha256", "title", "license", "source_url", "image_id", "generated_id",
)  # fmt: skip
LINEAGE_PREFIX = "dataset_"  # versions of the tables that the model was trained on


@dataclass(frozen=True)
class SourcePicture:
    """A picture file and what is known of it."""

    file: str  # its name, for messages and the manifest
    data: bytes
    name: str = ""  # wished for; by default the prompt, the title or the file's name
    statements: Mapping[str, str] = field(default_factory=dict)  # of a list beside the file

    def decode(self) -> tuple[NDArray[np.uint8], dict[str, str]]:
        """Return uint8 RGBA `(h, w, 4)`, and what the file and its list state.

        Raises:
            Rejected: The file is no picture, or too large.
        """
        image, _, _ = decode_image(self.data, MAX_SIDE_PX, limit_name="the limit")
        return np.array(image), origin({**self.statements, **_text_chunks(self.data)})

    def wanted_name(self, statements: Mapping[str, str]) -> str:
        """Return the text that the emoji's name is made from."""
        # A sentence is never meant as a name, so "Ant" becomes ant beside blob_alien; a file's name may be.
        sentence = statements.get("prompt") or statements.get("title")
        return self.name or (slug(sentence) if sentence else Path(self.file).stem)


def read_folder(folder: Path) -> list[SourcePicture]:
    """Return the pictures of a folder and its subfolders, in the order of their paths.

    Raises:
        ConfigError: There is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}; name one with PNG files, as `emoji-ldm generate` writes it")
    rows = {name: row for each in LISTS for name, row in _rows(folder / each)}
    paths = sorted(path for path in folder.rglob("*") if _is_picture(path, folder))
    if not paths:
        raise ConfigError(f"{folder} holds no {' or '.join(SUFFIXES)} files")
    pictures = []
    for path in paths:
        name = path.relative_to(folder).as_posix()
        # A file that is too long is not read at all; decoding an empty one then says what is wrong with it.
        data = path.read_bytes() if path.stat().st_size <= MAX_FILE_BYTES else b""
        pictures.append(SourcePicture(name, data, statements=rows.get(name, {})))
    return pictures


def origin(statements: Mapping[str, Any]) -> dict[str, str]:
    """Return the statements that tell a picture's origin, as texts."""
    return {name: str(value)[:MAX_TEXT] for name, value in sorted(statements.items())
            if value not in (None, "") and (name in STATEMENTS or name.startswith(LINEAGE_PREFIX))}  # fmt: skip


def _is_picture(path: Path, folder: Path) -> bool:
    # Files and folders that begin with a dot belong to programs, such as `.fetched` of `sets fetch`.
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.suffix.lower() in SUFFIXES and path.name != CONTACT_SHEET and not hidden and path.is_file()


def _rows(path: Path) -> list[tuple[str, dict[str, str]]]:
    """Return (file name, row) of a list with a column `file` or `file_name`."""
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream, restval=""))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} is no list of pictures: {error}; remove or repair it") from None
    names = ((row.get("file") or row.get("file_name") or "", row) for row in rows)
    return [(name, {CSV_NAMES.get(key, key): row[key] for key in row if key}) for name, row in names if name]


def _text_chunks(data: bytes) -> dict[str, str]:
    """Return the text chunks of a PNG that `decode_image` has accepted; none of other formats."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()  # chunks may follow the pixels
        return dict(getattr(image, "text", {}))
