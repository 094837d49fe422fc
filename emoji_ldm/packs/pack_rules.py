"""The check of a finished pack: it is opened as its target would, and every file is held against the target's rules.

The check reads the written bytes alone, and not what the builder believes to have written.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from PIL import Image

from emoji_ldm.errors import PackError
from emoji_ldm.packs.target_limits import (
    ICO_SIZES_PX,
    TRAY_MAX_BYTES,
    TRAY_SIZE_PX,
    PackTarget,
)

MANIFEST, LICENSE = "manifest.json", "LICENSE.txt"
# Targets whose pictures are not single files of the target's size.
COMPOSED = ("favicon", "sprite", "font")


def check_count(target: PackTarget, count: int) -> None:
    """Raise PackError for more or fewer pictures than a pack of the target holds."""
    if not target.min_pictures <= count <= target.max_pictures:
        few = count < target.min_pictures
        remedy = "add some" if few else "make several packs, each from a part of them"
        raise PackError(f"{target.title}: a pack has {target.min_pictures} to {target.max_pictures} pictures, and here "
                        f"are {count}; {remedy}")  # fmt: skip


def verify(archive: bytes, target: PackTarget, names: Sequence[str]) -> None:
    """Raise PackError, naming file and rule, unless the ZIP is a pack of these emoji that the target accepts."""
    check_count(target, len(names))
    _check_names(target, names)
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        if broken := opened.testzip():
            raise PackError(f"{broken}: its checksum in the ZIP is wrong")
        files = {path: opened.read(path) for path in opened.namelist()}
    _require({MANIFEST, LICENSE} <= files.keys(), MANIFEST, "manifest and licence go with every pack")
    if target.id in COMPOSED:
        {"favicon": _check_favicon, "sprite": _check_sprite, "font": _check_font}[target.id](files, target, names)
        return
    pictures = {PurePosixPath(path).stem: path for path in files if path.endswith(f".{target.format}")}
    if target.id == "whatsapp":
        _check_tray(files, pictures.pop("tray", "1/tray.png"))
    missing = set(names) - pictures.keys()
    _require(not missing, ", ".join(sorted(missing)), "the picture is missing in the ZIP")
    for name in names:
        check_picture(pictures[name], files[pictures[name]], target)


def check_picture(path: str, data: bytes, target: PackTarget) -> None:
    """Raise PackError unless a file has the target's format, size and bytes, one frame, and something to see."""
    if target.max_bytes is not None:
        _require(len(data) < target.max_bytes, path, f"{len(data):,} bytes, must be below {target.max_bytes:,}")
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            form, size, frames = (image.format or "").lower(), image.size, getattr(image, "n_frames", 1)
            box = image.convert("RGBA").getchannel("A").getbbox()
    except (OSError, SyntaxError, ValueError) as error:
        raise PackError(f"{path}: cannot be read back: {error}") from None
    _require(form == target.format, path, f"is {form}, must be {target.format}")
    if target.size_px is not None:
        _require(
            size == (target.size_px,) * 2, path, f"is {size[0]}x{size[1]} px, must be square of {target.size_px} px"
        )
    _require(frames == 1, path, "is animated")
    _require(box is not None, path, "shows nothing")


def _check_names(target: PackTarget, names: Sequence[str]) -> None:
    for name in names:
        _require(target.accepts_name(name), name, f"is no name for {target.title}: {target.names}")
    lower = [name.lower() for name in names]
    for name in names:
        _require(lower.count(name.lower()) == 1, name, "two emoji have this name")


def _check_tray(files: Mapping[str, bytes], path: str) -> None:
    tray = files.get(path, b"")
    _require(0 < len(tray) < TRAY_MAX_BYTES, path, f"{len(tray):,} bytes, must be below {TRAY_MAX_BYTES:,}")
    size = Image.open(io.BytesIO(tray)).size
    _require(size == (TRAY_SIZE_PX,) * 2, path, f"is {size[0]}x{size[1]} px, must be of {TRAY_SIZE_PX} px")


def _check_favicon(files: Mapping[str, bytes], target: PackTarget, names: Sequence[str]) -> None:
    for name in names if len(names) > 1 else ["favicon"]:
        path = f"{name}/favicon.ico"
        _require(path in files, path, "is missing")
        with Image.open(io.BytesIO(files[path])) as icon:
            sizes = icon.info.get("sizes", set())
        wanted = {(size, size) for size in ICO_SIZES_PX}
        _require(sizes == wanted, path, f"holds the sizes {sorted(sizes)}, must hold {sorted(wanted)}")
        for other in (entry for entry in files if entry.startswith(f"{name}/icon-")):
            side = int(PurePosixPath(other).stem.removeprefix("icon-"))
            with Image.open(io.BytesIO(files[other])) as image:
                _require(image.size == (side, side), other, f"is {image.size}, must be square of {side} px")


def _check_sprite(files: Mapping[str, bytes], target: PackTarget, names: Sequence[str]) -> None:
    with Image.open(io.BytesIO(files["sprite.png"])) as sheet:
        cells = (sheet.width // (target.size_px or 1)) * (sheet.height // (target.size_px or 1))
    _require(cells >= len(names), "sprite.png", f"has {cells} cells for {len(names)} emoji")
    style = files["emoji.css"].decode()
    for name in names:
        _require(f".emoji-{name}{{" in style, "emoji.css", f"has no rule for {name}")


def _check_font(files: Mapping[str, bytes], target: PackTarget, names: Sequence[str]) -> None:
    from fontTools.ttLib import TTFont, TTLibError

    try:
        font = TTFont(io.BytesIO(files["emoji.ttf"]))
        glyphs, bitmaps = font.getBestCmap(), font["CBDT"].strikeData[0]
        points = {name: ord(entry["text"]) for name, entry in json.loads(files["code_points.json"]).items()}
        for name in names:
            _require(points.get(name) in glyphs, "emoji.ttf", f"has no glyph for {name}")
            check_picture(f"emoji.ttf, {name}", bitmaps[glyphs[points[name]]].imageData, target)
    except (TTLibError, KeyError) as error:
        raise PackError(f"emoji.ttf: cannot be read back: {error}") from None
    if "emoji-outlines.ttf" in files:
        _check_outlines(files["emoji-outlines.ttf"], points)


def _check_outlines(data: bytes, points: Mapping[str, int]) -> None:
    from fontTools.ttLib import TTFont, TTLibError

    path = "emoji-outlines.ttf"
    try:
        font = TTFont(io.BytesIO(data))
        glyphs, colours = font.getBestCmap(), font["COLR"]
        _require(colours.version == 1, path, f"has COLR of version {colours.version}, must be 1")
        painted = {record.BaseGlyph for record in colours.table.BaseGlyphList.BaseGlyphPaintRecord}
        for name, point in points.items():
            _require(glyphs.get(point) in painted, path, f"paints no {name}")
    except (TTLibError, KeyError) as error:
        raise PackError(f"{path}: cannot be read back: {error}") from None


def _require(holds: bool, path: str, rule: str) -> None:
    if not holds:
        raise PackError(f"{path}: {rule}")
