"""The pictures of DreamBooth: folders as people have them, turned into squares that are known by their pixels."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from emoji_ldm.config import Config
from emoji_ldm.crawl.clean import decode
from emoji_ldm.crawl.outcomes import Refused
from emoji_ldm.errors import ConfigError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".avif", ".heic", ".heif", ".tif", ".tiff"}
LIST = "prompts.csv"  # see emoji_ldm.generate.pack
DRAWN = "generated"  # folder in a class folder: pictures that were drawn because the user's are too few
MAX_SIDE_PX = 16384
REMEDY = "give JPEG or PNG, or take it out of the folder"


@dataclass(frozen=True)
class Album:
    """A folder of pictures that share a prompt."""

    prompt: str
    folder: Path
    is_class: bool = False

    def files(self) -> list[Path]:
        """The user's own pictures, by name."""
        return _pictures_in(self.folder)

    def drawn(self) -> list[Path]:
        """Pictures that were drawn last to fill the class up, as their list has them."""
        with (self.folder / DRAWN / LIST).open(newline="", encoding="utf-8") as stream:
            return [self.folder / DRAWN / row["file"] for row in csv.DictReader(stream)]


@dataclass(frozen=True)
class Square:
    """A square picture."""

    image_id: str  # sha256 of size and RGBA pixels, as in the table `images`
    png: bytes


def albums(config: Config) -> list[Album]:
    """The folders of `train.concepts`: subjects first, then their classes.

    Raises:
        ConfigError: A folder is missing, empty or given for two prompts, there is nothing to start from, or the batch
            cannot hold both halves.
    """
    train = config.train
    if not train.init:
        raise ConfigError("train.concepts teaches a model that can draw already; name its pipeline with train.init=...")
    subjects = [Album(each.instance_prompt, Path(each.instance_folder).expanduser()) for each in train.concepts]
    for number, subject in enumerate(subjects):
        _check_subject(subject, number)
    classes = _classes(config)
    if classes and train.batch_size % 2:
        raise ConfigError(
            f"train.batch_size={train.batch_size} is odd: with a class_prompt half of a batch shows the subject, half "
            f"the class; give {train.batch_size + 1}"
        )
    found = list(dict.fromkeys([*subjects, *classes]))
    _check_distinct(found)
    return found


def squares(paths: Iterable[Path], size_px: int) -> Iterator[Square]:
    """Each picture upright, its middle cut out as a square and scaled to `size_px`.

    Raises:
        ConfigError: A file is no picture that can be read.
    """
    with ThreadPoolExecutor() as pool:
        yield from pool.map(lambda path: _square(path, size_px), paths)


def _square(path: Path, size_px: int) -> Square:
    try:
        image, _, _ = decode(path.read_bytes(), MAX_SIDE_PX)
    except (OSError, Refused) as error:
        raise ConfigError(f"cannot read the picture {path}: {error}; {REMEDY}") from None
    square, png = ImageOps.fit(image, (size_px, size_px), Image.Resampling.LANCZOS), io.BytesIO()
    square.save(png, "PNG", compress_level=1)
    digest = hashlib.sha256(f"{size_px}x{size_px}:".encode() + square.tobytes()).hexdigest()
    return Square(digest, png.getvalue())


def _pictures_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")


def _classes(config: Config) -> list[Album]:
    """Classes of the concepts that have one; those of one prompt share a folder unless they name others."""
    found, prompts = list[Album](), [concept.class_prompt for concept in config.train.concepts]
    for number, concept in enumerate(config.train.concepts):
        if concept.class_folder and not concept.class_prompt:
            raise ConfigError(f"train.concepts.{number}: class_folder without class_prompt; give both or neither")
        if concept.class_prompt and config.train.prior_weight:
            folder = concept.class_folder or f"runs/{config.run}/class-{prompts.index(concept.class_prompt)}"
            found.append(Album(concept.class_prompt, Path(folder).expanduser(), is_class=True))
    return found


def _check_distinct(found: Iterable[Album]) -> None:
    prompts: dict[Path, str] = {}
    for album in found:
        other = prompts.setdefault(album.folder.absolute(), album.prompt)
        if other != album.prompt:
            raise ConfigError(f"train.concepts: {album.folder} is for two prompts, {other!r} and {album.prompt!r}; "
                              "give each a folder of its own")  # fmt: skip


def _check_subject(album: Album, number: int) -> None:
    name = f"train.concepts.{number}.instance_folder={album.folder}"
    if not album.prompt.strip():
        raise ConfigError(f"train.concepts.{number}.instance_prompt is empty; give one such as 'a photo of sks dog'")
    if not album.folder.is_dir():
        raise ConfigError(f"{name} is no folder on this machine; put 3 to 20 pictures of the subject there")
    if not album.files():
        raise ConfigError(f"{name} holds no picture (such as .jpg or .png); put 3 to 20 pictures of the subject there")
