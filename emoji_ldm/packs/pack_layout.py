"""The files of a pack, target by target: where pictures go, and what else the target reads.

`manifest.json` and `LICENSE.txt` go with every pack. The same pictures give the same bytes: no file states a time.
"""

from __future__ import annotations

import gzip
import html
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emoji_ldm.packs.colour_font import build_font, code_points
from emoji_ldm.packs.composition import place
from emoji_ldm.packs.file_size import encode
from emoji_ldm.packs.layered_font import build_layered_font
from emoji_ldm.packs.target_limits import (
    FAVICON_SIZES_PX,
    ICO_SIZES_PX,
    TRAY_MAX_BYTES,
    TRAY_SIZE_PX,
    PackTarget,
)
from emoji_ldm.packs.upscaling import premultiply, resize, unpremultiply

# The earliest time that a ZIP can state.
ZIP_TIME = (1980, 1, 1, 0, 0, 0)
STORED_SUFFIXES = (".png", ".webp", ".ico", ".gz")  # compressed already
SPRITE_COLUMNS = 16
MAX_TRACED = 200  # pictures of a font whose outlines are traced, which takes about 0.1 s each
SHOWN_EM = 1.25  # side of an emoji in a line of text, of the font's size


@dataclass(frozen=True)
class PackPicture:
    """One finished picture of a pack."""

    name: str
    data: bytes  # the file in the target's format
    pixels: NDArray[np.uint8]  # what it shows, (h, w, 4)
    trimmed: NDArray[np.uint8]  # before it was placed on a canvas, for the tray icon


Files = dict[str, bytes]  # by path


def lay_out(target: PackTarget, title: str, pictures: Sequence[PackPicture]) -> Files:
    """Return all files of a pack but the manifest and the licence."""
    return LAYOUTS.get(target.id, _plain)(target, title, pictures)


def write_zip(files: Mapping[str, bytes]) -> bytes:
    """Return a ZIP archive; equal files give equal bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for path, data in sorted(files.items()):
            entry = zipfile.ZipInfo(path, ZIP_TIME)
            entry.compress_type = zipfile.ZIP_STORED if path.endswith(STORED_SUFFIXES) else zipfile.ZIP_DEFLATED
            # Unix, a plain file that everybody may read; the default would depend on the system that writes.
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, data)
    return stream.getvalue()


def _plain(target: PackTarget, title: str, pictures: Sequence[PackPicture]) -> Files:
    # A folder of their own, so that one can select all of them for an upload.
    return {f"emoji/{each.name}.{target.format}": each.data for each in pictures}


def _mastodon(target: PackTarget, title: str, pictures: Sequence[PackPicture]) -> Files:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for each in pictures:
            entry = tarfile.TarInfo(f"{each.name}.png")
            entry.size = len(each.data)
            archive.addfile(entry, io.BytesIO(each.data))
    return {**_plain(target, title, pictures), "mastodon.tar.gz": gzip.compress(stream.getvalue(), mtime=0)}


def _misskey(target: PackTarget, title: str, pictures: Sequence[PackPicture]) -> Files:
    # The importer reads meta.json and the files that it names, all of them at the top of the archive.
    entries = [{"downloaded": True, "fileName": f"{each.name}.png",
                "emoji": {"name": each.name, "category": title, "aliases": []}} for each in pictures]  # fmt: skip
    meta = {"metaVersion": 2, "emojis": entries}
    return {f"{each.name}.png": each.data for each in pictures} | {"meta.json": _json(meta)}


def _whatsapp(target: PackTarget, title: str, pictures: Sequence[PackPicture]) -> Files:
    # The tray shows the first sticker, as the apps of WhatsApp's own packs do.
    tray, _ = encode(place(pictures[0].trimmed, TRAY_SIZE_PX), "png", TRAY_MAX_BYTES)
    stickers = [{"image_file": f"{each.name}.webp", "emojis": ["🙂"]} for each in pictures]
    pack = {"identifier": title, "name": title, "publisher": title, "tray_image_file": "tray.png",
            "image_data_version": "1", "avoid_cache": False, "stickers": stickers}  # fmt: skip
    # One folder per pack beside contents.json, as in the assets of WhatsApp's sample app.
    return {"contents.json": _json({"sticker_packs": [pack]}), "1/tray.png": tray} | {
        f"1/{each.name}.webp": each.data for each in pictures
    }


def _favicon(target: PackTarget, title: str, pictures: Sequence[PackPicture]) -> Files:
    files: Files = {}
    for each in pictures:
        folder = each.name if len(pictures) > 1 else "favicon"
        # All sizes come from the largest, which has the outline, so that they look alike.
        large = premultiply(each.pixels)
        sizes = {size: unpremultiply(resize(large, size, size)) for size in {*FAVICON_SIZES_PX, *ICO_SIZES_PX}}
        files |= {f"{folder}/icon-{size}.png": encode(sizes[size], "png", None)[0] for size in FAVICON_SIZES_PX}
        files[f"{folder}/favicon.ico"] = _ico([sizes[size] for size in ICO_SIZES_PX])
        icons = [{"src": f"icon-{size}.png", "sizes": f"{size}x{size}", "type": "image/png"} for size in (192, 512)]
        files[f"{folder}/site.webmanifest"] = _json({"name": title, "icons": icons})
        files[f"{folder}/head.html"] = FAVICON_LINKS.encode()
    return files


FAVICON_LINKS = """<link rel="icon" href="/favicon.ico" sizes="any">
<link rel="icon" href="/icon-32.png" type="image/png" sizes="32x32">
<link rel="apple-touch-icon" href="/icon-180.png">
<link rel="manifest" href="/site.webmanifest">
"""


def _ico(pictures: Sequence[NDArray[np.uint8]]) -> bytes:
    images = [Image.fromarray(each) for each in pictures]
    stream = io.BytesIO()
    # Each size is drawn for itself; Pillow would otherwise scale the largest one down.
    images[-1].save(stream, "ICO", sizes=[each.size for each in images], append_images=images[:-1])
    return stream.getvalue()


def _sprite(target: PackTarget, title: str, pictures: Sequence[PackPicture]) -> Files:
    size, columns = target.size_px or 0, min(SPRITE_COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = np.zeros((rows * size, columns * size, 4), np.uint8)
    rules = [SPRITE_STYLE.format(example=pictures[0].name, em=SHOWN_EM, width=100 * columns, height=100 * rows)]
    for index, each in enumerate(pictures):
        row, column = divmod(index, columns)
        sheet[row * size : (row + 1) * size, column * size : (column + 1) * size] = each.pixels
        # A background position in percent is that share of what does not fit: 0 % is the first cell, 100 % the last.
        across, down = 100 * column / max(1, columns - 1), 100 * row / max(1, rows - 1)
        rules.append(f".emoji-{each.name}{{background-position:{across:.4g}% {down:.4g}%}}")
    spans = "".join(_cell(f'<span class="emoji emoji-{each.name}"></span>', each.name) for each in pictures)
    return {"sprite.png": encode(sheet, "png", None)[0], "emoji.css": "\n".join([*rules, ""]).encode(),
            "index.html": _page(title, '<link rel="stylesheet" href="emoji.css">', spans)}  # fmt: skip


SPRITE_STYLE = """/* <span class="emoji emoji-{example}" role="img" aria-label="..."></span> */
.emoji{{display:inline-block;width:{em}em;height:{em}em;vertical-align:-.25em;\
background:url(sprite.png) 0 0/{width}% {height}% no-repeat}}"""


def _font(target: PackTarget, title: str, pictures: Sequence[PackPicture]) -> Files:
    names = [each.name for each in pictures]
    points = code_points(names)
    table = {name: {"code_point": f"U+{point:04X}", "text": chr(point)} for name, point in points.items()}
    style = f'@font-face{{font-family:"{title}";src:url(emoji.ttf)}}\n.emoji{{font-family:"{title}"}}\n'
    shown = '<span class="emoji">&#x{0:X};</span>'
    files = {"emoji.ttf": build_font(title, {each.name: each.data for each in pictures}, target.size_px or 0)}
    pixels = {each.name: each.pixels for each in pictures}
    if len(pictures) <= MAX_TRACED and (outlines := build_layered_font(title, pixels)):
        files["emoji-outlines.ttf"] = outlines
        style += f'@font-face{{font-family:"{title} outlines";src:url(emoji-outlines.ttf)}}\n'
        style += f'.emoji.outlines{{font-family:"{title} outlines"}}\n'
        shown += ' <span class="emoji outlines">&#x{0:X};</span>'
    spans = "".join(_cell(shown.format(point), name) for name, point in points.items())
    return {**files, "code_points.json": _json(table), "emoji.css": style.encode(),
            "index.html": _page(title, '<link rel="stylesheet" href="emoji.css">', spans)}  # fmt: skip


def _cell(emoji: str, name: str) -> str:
    return f"<li>{emoji} {html.escape(name)}</li>\n"


def _page(title: str, head: str, cells: str) -> bytes:
    style = "li{display:inline-block;width:14em;margin:.4em;font:16px sans-serif}.emoji{font-size:32px}"
    return (f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>\n{head}\n'
            f"<style>{style}</style>\n<ul>\n{cells}</ul></html>\n").encode()  # fmt: skip


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


LAYOUTS: dict[str, Callable[[PackTarget, str, Sequence[PackPicture]], Files]] = {
    "mastodon": _mastodon, "misskey": _misskey, "whatsapp": _whatsapp, "favicon": _favicon, "sprite": _sprite,
    "font": _font,
}  # fmt: skip
