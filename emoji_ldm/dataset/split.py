"""`dataset split`: train, validation and test parts by content hash, stable when images come or go.

The part of an image depends on its id (a hash of its pixels), the salt and the fractions alone. Equal pixels are one
image and captions follow their image, so nothing is in two parts.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping
from itertools import accumulate

import pyarrow as pa
import pyarrow.parquet as pq

from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import ConfigError, DatasetError
from emoji_ldm.store import Store

PART_NAME_PATTERN = re.compile(r"[A-Za-z0-9_]+")  # what Hugging Face takes as a split's name


def parse_fractions(text: str) -> dict[str, float]:
    """{part: fraction} from `train=0.9,val=0.1`; empty text gives no parts.

    Raises:
        ConfigError: A part has no number or a bad name, or the fractions do not add up to 1.
    """
    fractions: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, _, number = (word.strip() for word in part.partition("="))
        try:
            fractions[name] = float(number)
        except ValueError:
            raise ConfigError(f"split {part!r} is not NAME=FRACTION; write it as train=0.9,val=0.1") from None
    if fractions:
        check_fractions(fractions)
    return fractions


def check_fractions(fractions: Mapping[str, float]) -> None:
    """ConfigError unless names are words and the fractions are in (0, 1] and add up to 1."""
    for name, fraction in fractions.items():
        if not PART_NAME_PATTERN.fullmatch(name):
            raise ConfigError(f"split name {name!r} is not allowed; use letters, digits and _")
        if not 0 < fraction <= 1:
            raise ConfigError(f"split {name}={fraction:g} is not allowed; a fraction is above 0 and at most 1")
    total = sum(fractions.values())
    if not math.isclose(total, 1, abs_tol=1e-6):
        raise ConfigError(f"the fractions of the split add up to {total:g}, not 1 (such as train=0.9,val=0.1)")


def assign_part(image_id: str, fractions: Mapping[str, float], salt: str = "") -> str:
    """The part that an image belongs to; another `salt` gives another split."""
    # Image ids are hashes already. Hashing again mixes in the salt, so that another salt gives an independent split.
    digest = hashlib.sha256(f"{salt}:{image_id}".encode()).digest()
    # Every image has its own number in [0, 1), from its hash. Images that come or go change nobody else's number, and a
    # larger first fraction only moves images into the first part, never out of it.
    position = int.from_bytes(digest[:8], "big") / 2**64
    for name, end in zip(fractions, accumulate(fractions.values()), strict=True):
        if position < end:
            return name
    # The fractions may add up to slightly less than 1 in floating point, and then a number just below 1 falls past the
    # last end.
    return list(fractions)[-1]


def is_held_out(image_id: str, fraction: float, seed: int) -> bool:
    """Whether a training with this `train.validation_fraction` and `train.seed` trains on everything but this image."""
    # The seed is part of the hash: runs with other seeds hold out other images.
    return fraction > 0 and assign_part(image_id, {"train": 1 - fraction, "held": fraction}, str(seed)) == "held"


def split_images(images: Table, fractions: Mapping[str, float], *, salt: str = "", target: str = "") -> dict[str, int]:
    """Assign every image of the table to a part.

    Args:
        images: The table `images`, at any version.
        fractions: {part: fraction}, as `parse_fractions` gives it.
        salt: Another one gives another split.
        target: A new Parquet file (a path or s3://...) of `image_id, split`; empty writes none.

    Returns:
        {part: number of images}, in the order of `fractions`.

    Raises:
        ConfigError: The fractions are wrong, or the target exists.
        DatasetError: There is no image.
        StoreError: The target cannot be written.
    """
    check_fractions(fractions)
    # The ids are sorted, so that the written file is the same however the table's files are laid out.
    image_ids = sorted(images.keys())
    if not image_ids:
        raise DatasetError(f"{images.store.uri} has no images to split; run: emoji-ldm crawl")
    parts = [assign_part(image_id, fractions, salt) for image_id in image_ids]
    if target:
        _write(pa.table({"image_id": image_ids, "split": parts}), target)
    counts = Counter(parts)
    return {name: counts[name] for name in fractions}


def _write(rows: pa.Table, target: str) -> None:
    folder, _, name = target.rstrip("/").rpartition("/")
    if not name.endswith(".parquet"):
        raise ConfigError(f"split target {target!r} is no Parquet file; end it with .parquet")
    # The target's folder is opened as a store of its own, so that a path and an S3 URI take the same way. The file is
    # made in memory, since it holds two short columns.
    store, sink = Store(folder or "."), pa.BufferOutputStream()
    if store.exists(name):
        raise ConfigError(f"split target {target} exists; choose another")
    pq.write_table(rows, sink, compression="zstd")
    store.write(sink.getvalue().to_pybytes(), name)
