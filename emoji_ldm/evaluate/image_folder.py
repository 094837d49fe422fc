"""A folder of generated pictures, whatever drew them: each PNG file with the prompt that it states."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from emoji_ldm.errors import ConfigError

# Text chunks that hold a prompt: ours, and that of the Stable Diffusion web UIs, whose further lines are settings.
PROMPT_CHUNKS = ("prompt", "parameters")
NUMBERED = re.compile(r"^\d+[-_ ]+|[-_ ]+\d+$")


@dataclass(frozen=True)
class PromptedImage:
    """One file."""

    name: str  # path below the folder
    png: bytes
    prompt: str


def read_image_folder(folder: str) -> list[PromptedImage]:
    """The PNG files of a folder and those below it, by name; `sheet.png`, a contact sheet of ours, is left out.

    A prompt comes from the file's metadata, else from its name: `0003_happy-cat_7.png` says "happy cat".

    Raises:
        ConfigError: There is no such folder, no PNG file in it, or one that cannot be read.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise ConfigError(f"evaluate.images={folder} is no folder; give one that holds PNG files")
    paths = sorted(path for path in root.rglob("*.png") if path.name != "sheet.png")
    if not paths:
        raise ConfigError(f"evaluate.images={folder} holds no PNG file")
    return [_read(path, str(path.relative_to(root))) for path in paths]


def _read(path: Path, name: str) -> PromptedImage:
    try:
        with Image.open(path) as image:
            image.load()
            chunks = {key: str(value) for key, value in image.info.items() if key in PROMPT_CHUNKS}
    except (OSError, SyntaxError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a PNG file: {error}; remove it") from None
    stated = next((chunks[key].split("\n")[0].strip() for key in PROMPT_CHUNKS if key in chunks), "")
    return PromptedImage(name, path.read_bytes(), stated or prompt_of_name(path.stem))


def prompt_of_name(stem: str) -> str:
    """The words of a file name, without the numbers at its ends."""
    words = NUMBERED.sub("", NUMBERED.sub("", stem))
    return " ".join(re.split(r"[-_\s]+", words)).strip() or stem
