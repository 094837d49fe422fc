"""Which engines there are, and what they all do: pictures with titles -> captions with a status."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa
from PIL import Image

from emoji_ldm.caption import prompt
from emoji_ldm.config import CaptionConfig, key_of
from emoji_ldm.records import ATTRIBUTES, CAPTIONS

REVISION = 1  # goes into every engine's key: raise it when captions change for the same settings


@dataclass(frozen=True)
class Subject:
    """A picture to describe."""

    image: Image.Image  # RGBA
    title: str
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Caption:
    """A caption, or why there is none."""

    text: str
    attributes: dict[str, str] = field(default_factory=dict)
    reason: str = ""  # empty if the caption is good


class Captioner(Protocol):
    """An engine, loaded and ready."""

    def __call__(self, subjects: Sequence[Subject]) -> list[Caption]:
        """One caption per subject; a failure is a caption with a reason."""
        ...


def engine_key(config: CaptionConfig) -> str:
    """Hash of all that decides what an engine writes; batch size and workers do not."""
    if config.engine == "metadata":
        return key_of(REVISION, config.engine)
    return key_of(REVISION, config.engine, config.model, config.size_px, config.max_new_tokens, prompt.INSTRUCTION)


def engine_name(config: CaptionConfig) -> str:
    """The engine as the table names it, with its model."""
    return config.engine if config.engine == "metadata" else f"{config.engine} ({config.model})"


def check(config: CaptionConfig) -> None:
    """Raise ModelError if the engine's model is not there, without loading weights."""
    if config.engine == "qwen2.5-vl":
        from emoji_ldm.caption.qwen import check_model

        check_model(config.model)


def build(config: CaptionConfig) -> Captioner:
    """Load the engine; ModelError if its model is missing or of another kind."""
    if config.engine == "metadata":
        from emoji_ldm.caption.metadata import describe_all

        return describe_all
    from emoji_ldm.caption.qwen import QwenCaptioner

    return QwenCaptioner(config)


def caption_rows(captioner: Captioner, config: CaptionConfig, images: pa.Table) -> pa.Table:
    """Rows of `captions` for rows of `images` (image_id, image, title, tags), in the same order."""
    rows = images.to_pylist()
    captions: dict[str, Caption] = {}
    for start in range(0, len(rows), config.batch_size):
        captions |= _batch(captioner, rows[start : start + config.batch_size])
    key, name = engine_key(config), engine_name(config)
    return pa.Table.from_pylist(
        [_row(row["image_id"], captions[row["image_id"]], key, name) for row in rows], schema=CAPTIONS.schema
    )


def _batch(captioner: Captioner, rows: list[dict[str, object]]) -> dict[str, Caption]:
    """Captions by image id; a picture that cannot be read fails alone."""
    subjects, captions = dict[str, Subject](), dict[str, Caption]()
    for row in rows:
        try:
            subjects[str(row["image_id"])] = _subject(row)
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for broken files
            captions[str(row["image_id"])] = Caption("", reason=f"unreadable picture: {error}")
    if subjects:
        captions |= zip(subjects, captioner(list(subjects.values())), strict=True)
    return captions


def _subject(row: dict[str, object]) -> Subject:
    picture, tags = row["image"], row["tags"]
    assert isinstance(picture, dict) and isinstance(tags, list)
    with Image.open(io.BytesIO(picture["bytes"])) as image:
        return Subject(image.convert("RGBA"), str(row["title"] or ""), tuple(tags))


def _row(image_id: str, caption: Caption, key: str, name: str) -> dict[str, str]:
    good = not caption.reason
    return {
        "caption_id": key_of(image_id, key), "image_id": image_id, "caption": caption.text if good else "",
        "engine": name, "engine_key": key, "status": "ok" if good else "failed", "reason": caption.reason,
        **{attribute: caption.attributes.get(attribute, "") for attribute in ATTRIBUTES},
    }  # fmt: skip
