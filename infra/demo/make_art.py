"""Makes emoji_ldm/demo/fixture/emoji.zip, the art that is committed with the demo site.

Needs npm, resvg-py and Pillow; run it from the repository root:

    PYTHONPATH=. python infra/demo/make_art.py
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import resvg_py
from PIL import Image

from emoji_ldm.demo.sample_images import tags_of

OUT = Path("emoji_ldm/demo/fixture/emoji.zip")
SIZE_PX = 128
NOTO, FLUENT = "@iconify-json/noto-v1@1.2.5", "@iconify-json/fluent-emoji-flat@1.2.6"
LICENCES = {"blob": "Apache-2.0", "fluent": "MIT"}
GROUPS = {"Smileys & Emotion": "face", "Animals & Nature": "animal", "Food & Drink": "food"}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Marks and plants that stand in the groups above but are neither faces nor animals.
MARKS = _words(
    """anger-symbol bomb collision dashing-away dizzy eye-in-speech-bubble hole hundred-points kiss-mark
    left-speech-bubble right-anger-bubble speech-balloon sweat-droplets thought-balloon zzz love-letter
    skull-and-crossbones"""
)
PLANTS = _words(
    """blossom bouquet cactus cherry-blossom deciduous-tree evergreen-tree fallen-leaf four-leaf-clover herb
    hibiscus leaf-fluttering-in-wind maple-leaf palm-tree rose rosette seedling shamrock sheaf-of-rice sunflower
    tulip white-flower wilted-flower spider-web spiral-shell paw-prints pig-nose"""
)
# Fluent adds what the blob set lacks, and second drawings of the animals that the tags ask for.
FLUENT_ANIMALS = _words(
    """badger bat bear beaver bison black-cat bird butterfly cat cat-face chipmunk crocodile deer dodo dog
    dog-face dolphin dragon-face duck elephant flamingo fox frog giraffe hamster hedgehog hippopotamus honeybee
    jellyfish kangaroo koala lady-beetle leopard lion lizard llama octopus otter owl panda parrot peacock penguin
    polar-bear rabbit-face raccoon seal shark sloth snail swan t-rex tiger tiger-face turtle unicorn zebra"""
)
FLUENT_FOOD = _words(
    """avocado bagel banana blueberries bread broccoli bubble-tea cherries cookie croissant cupcake doughnut
    dumpling french-fries grapes hamburger hot-dog kiwi-fruit lemon lollipop mango mushroom onion pancakes peach
    pear pineapple pizza popcorn pretzel strawberry sushi taco teapot waffle watermelon"""
)

Wanted = Iterator[tuple[str, str, str, dict[str, Any]]]


def main() -> None:
    """Writes the zip and says what is in it."""
    with tempfile.TemporaryDirectory() as folder:
        sets = {"blob": _unpack(NOTO, Path(folder)), "fluent": _unpack(FLUENT, Path(folder))}
    entries, images, seen = [], {}, set()
    for style, slug, group, icon in _wanted(sets):
        webp, pixels = _render(icon)
        if webp is None or pixels in seen:  # every committed picture has pixels of its own, and a clear background
            continue
        seen.add(pixels)
        images[f"{style}-{slug}"] = webp
        entries.append(_entry(style, slug, group))
    _write(entries, images)
    sys.stdout.write(f"{OUT}: {len(entries)} emoji, {OUT.stat().st_size / 1e6:.2f} MB\n")


def _unpack(package: str, folder: Path) -> dict[str, Any]:
    """The icons of one npm package by slug, each with `body`, `width`, `height` and `group`."""
    done = subprocess.run(["npm", "pack", "--json", package], cwd=folder, check=True, capture_output=True, text=True)
    with tarfile.open(folder / json.loads(done.stdout)[0]["filename"]) as tar:
        icons, metadata = (_load(tar, f"package/{name}.json") for name in ("icons", "metadata"))
    groups = {slug: GROUPS[name] for name, slugs in metadata["categories"].items() if name in GROUPS for slug in slugs}
    size = {"width": icons.get("width", 16), "height": icons.get("height", 16)}
    return {slug: {**size, **icon, "group": groups[slug]} for slug, icon in icons["icons"].items() if slug in groups}


def _load(tar: tarfile.TarFile, name: str) -> dict[str, Any]:
    member = tar.extractfile(name)
    assert member is not None, name
    loaded: dict[str, Any] = json.load(member)
    return loaded


def _wanted(sets: dict[str, dict[str, Any]]) -> Wanted:
    """Yields style, slug, group and icon of every picture to pack."""
    blobs, fluent = sets["blob"], sets["fluent"]
    for slug, icon in sorted(blobs.items()):
        if icon["group"] != "food" and slug not in MARKS | PLANTS:
            yield "blob", slug, _group(slug, icon), icon
    for slug, icon in sorted(fluent.items()):
        new_face = icon["group"] == "face" and slug not in blobs and slug not in MARKS
        if new_face or slug in FLUENT_ANIMALS or slug in FLUENT_FOOD:
            yield "fluent", slug, _group(slug, icon), icon


def _group(slug: str, icon: dict[str, Any]) -> str:
    """The icon's group, corrected where Unicode files hearts, cats and monkeys under smileys."""
    words = set(slug.split("-"))
    if icon["group"] == "face" and words & {"heart", "hearts", "mending"} and not words & {"face", "cat"}:
        return "heart"
    return "animal" if icon["group"] == "face" and words & {"cat", "monkey"} else str(icon["group"])


def _render(icon: dict[str, Any]) -> tuple[bytes | None, bytes]:
    """Lossless WebP of the icon at 128 px, or none where nothing is transparent, and the digest of its pixels."""
    width, height = icon["width"], icon["height"]
    side = max(width, height)  # a few icons are not square: they are centred, never stretched
    left, top = icon.get("left", 0) - (side - width) / 2, icon.get("top", 0) - (side - height) / 2
    box = f'viewBox="{left} {top} {side} {side}"'
    links = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    svg = f"<svg {links} {box}>{icon['body']}</svg>"
    png = resvg_py.svg_to_bytes(svg_string=svg, width=SIZE_PX, height=SIZE_PX, skip_system_fonts=True)
    image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    out = io.BytesIO()
    image.save(out, "WEBP", lossless=True, method=6)
    is_clear = min(image.getchannel("A").tobytes()) == 0
    return out.getvalue() if is_clear else None, hashlib.sha256(image.tobytes()).digest()


def _entry(style: str, slug: str, group: str) -> dict[str, Any]:
    words = slug.replace("-", " ").capitalize()
    title = f"Blob {words.lower()}" if style == "blob" and group == "face" else words
    tags = tags_of(slug, group, style)
    return {"name": f"{style}-{slug}", "title": title, "tags": tags, "style": style, "license": LICENCES[style]}


def _write(entries: list[dict[str, Any]], images: dict[str, bytes]) -> None:
    """Writes a zip with fixed dates, so that the same art gives the same bytes."""
    with zipfile.ZipFile(OUT, "w") as pack:
        index = json.dumps(entries, indent=1).encode()
        pack.writestr(zipfile.ZipInfo("index.json"), index, zipfile.ZIP_DEFLATED)
        for name, webp in images.items():
            pack.writestr(zipfile.ZipInfo(f"{name}.webp"), webp)


if __name__ == "__main__":
    main()
