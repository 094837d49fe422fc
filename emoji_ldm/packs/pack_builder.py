"""From pictures to a finished pack: the one exporter, behind the command `pack` and the route `/v1/packs`.

    decode -> clean -> trim -> name -> place (upscale, centre, outline) -> encode -> lay out -> ZIP -> check

The same pictures and options give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emoji_ldm import __version__
from emoji_ldm.errors import ConfigError, PackError
from emoji_ldm.outcomes import Rejected
from emoji_ldm.packs.composition import place, trim
from emoji_ldm.packs.emoji_names import name_emoji, slug
from emoji_ldm.packs.file_size import encode
from emoji_ldm.packs.matte_removal import clean
from emoji_ldm.packs.pack_layout import PackPicture, lay_out, write_zip
from emoji_ldm.packs.pack_rules import LICENSE, MANIFEST, check_count, check_picture, verify
from emoji_ldm.packs.source_pictures import SourcePicture
from emoji_ldm.packs.target_limits import CHECKED, PackTarget, target_of

MAX_OUTLINE_SHARE = 1 / 8  # of the canvas, on each side
MAX_TITLE, MAX_LICENSE = 64, 4000  # characters
NO_LICENSE = (
    "No licence was stated for these pictures. manifest.json says which model drew each of them, from which\n"
    "prompt and seed, and on which versions of which data set the model was trained. Whoever publishes them states\n"
    "the terms.\n"
)


@dataclass(frozen=True)
class PackOptions:
    """What is made; errors of the fields are ConfigErrors of `check`."""

    target: str
    name: str = "emoji"  # of the pack
    outline_px: int = 0  # white, in pixels of the target
    license: str = ""  # a name such as CC-BY-4.0, or a whole text
    keep_going: bool = False  # leave out pictures that cannot be read, instead of failing

    def check(self) -> PackTarget:
        """Return the target; raises ConfigError that names the option."""
        target = target_of(self.target)
        most = int(MAX_OUTLINE_SHARE * (target.size_px or 0))
        if not 0 <= self.outline_px <= most:
            reason = f"takes 0 to {most} px" if most else "has no effect on pictures of their own size"
            raise ConfigError(f"outline={self.outline_px} for {target.id} {reason}")
        if not self.name.strip() or len(self.name) > MAX_TITLE:
            raise ConfigError(f"the pack's name must have 1 to {MAX_TITLE} characters")
        if len(self.license) > MAX_LICENSE:
            raise ConfigError(f"license is longer than {MAX_LICENSE:,} characters")
        return target


@dataclass
class PackReport:
    """What became of the pictures."""

    target: str
    num_pictures: int = 0
    num_bytes: int = 0  # of the ZIP
    largest: int = 0  # bytes of the largest picture
    changed: dict[str, list[str]] = field(default_factory=dict)  # by the emoji's name
    skipped: dict[str, str] = field(default_factory=dict)  # reason, by file


@dataclass(frozen=True)
class _Cleaned:
    source: SourcePicture
    pixels: NDArray[np.uint8]  # trimmed
    size: tuple[int, int]  # of the source: width, height
    statements: dict[str, str]
    changes: list[str]


def build_pack(
    sources: Sequence[SourcePicture], options: PackOptions, advance: Callable[[], None] = lambda: None
) -> tuple[bytes, PackReport]:
    """Return the ZIP and what was done; `advance` is called for each picture that is done or skipped.

    Raises:
        ConfigError: An option is wrong.
        PackError: A picture cannot be used, or the pack breaks a rule of its target; names file and rule.
    """
    target = options.check()
    report = PackReport(target.id)
    cleaned = _clean_all(sources, options, report, advance)
    check_count(target, len(cleaned))
    names = name_emoji([each.source.wanted_name(each.statements) for each in cleaned], target)
    pictures = []
    for name, each in zip(names, cleaned, strict=True):
        pictures.append(_finish(name, each, target, options))
        advance()
    # The pack's own files use its name as identifier, font name and title: plain characters cannot break any of them.
    files = lay_out(target, slug(options.name), pictures)
    files[LICENSE] = _license(options, cleaned).encode()
    files[MANIFEST] = _manifest(target, options, pictures, cleaned, report)
    archive = write_zip(files)
    verify(archive, target, names)
    report.num_pictures, report.num_bytes = len(pictures), len(archive)
    report.largest = max(len(each.data) for each in pictures)
    return archive, report


def _clean_all(
    sources: Sequence[SourcePicture], options: PackOptions, report: PackReport, advance: Callable[[], None]
) -> list[_Cleaned]:
    cleaned = []
    for source in sources:
        try:
            pixels, statements = source.decode()
            better, changes = clean(pixels)
            size = (pixels.shape[1], pixels.shape[0])
            cleaned.append(_Cleaned(source, trim(better), size, statements, changes))
        except (Rejected, ValueError) as error:
            if not options.keep_going:
                raise PackError(f"{source.file}: {error}") from None
            report.skipped[source.file] = str(error)
            advance()
    if not cleaned:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(report.skipped.items())[:3])
        raise PackError(f"none of the {len(sources)} files can be packed; {reasons}")
    return cleaned


def _finish(name: str, cleaned: _Cleaned, target: PackTarget, options: PackOptions) -> PackPicture:
    """Make the picture file of an emoji; its changes are added to those of the cleaning."""
    pixels = cleaned.pixels
    if target.size_px is not None:
        pixels = place(pixels, target.size_px, margin_px=target.margin_px, outline_px=options.outline_px)
        width, height = cleaned.size
        if cleaned.size != (target.size_px,) * 2:
            cleaned.changes.append(f"{width}x{height} px to {target.size_px} px")
    try:
        data, step = encode(pixels, target.format, target.max_bytes)
    except PackError as error:
        raise PackError(f"{cleaned.source.file}: {error}") from None
    cleaned.changes.extend([step] if step else [])
    check_picture(name, data, target)
    return PackPicture(name, data, pixels, cleaned.pixels)


def _license(options: PackOptions, cleaned: Sequence[_Cleaned]) -> str:
    if options.license:
        return options.license.rstrip() + "\n"
    # What the files themselves state counts where nobody says otherwise.
    stated = sorted({each.statements["license"] for each in cleaned if "license" in each.statements})
    return "".join(f"{each}\n" for each in stated) if stated else NO_LICENSE


def _manifest(
    target: PackTarget, options: PackOptions, pictures: Sequence[PackPicture], cleaned: Sequence[_Cleaned],
    report: PackReport,
) -> bytes:  # fmt: skip
    report.changed = {each.name: source.changes for each, source in zip(pictures, cleaned, strict=True)
                      if source.changes}  # fmt: skip
    emoji: list[dict[str, Any]] = [
        {"name": each.name, "bytes": len(each.data), "sha256": hashlib.sha256(each.data).hexdigest(),
         "source": {"file": source.source.file, "sha256": hashlib.sha256(source.source.data).hexdigest(),
                    "size": "{}x{}".format(*source.size), **source.statements}, "changes": source.changes}
        for each, source in zip(pictures, cleaned, strict=True)
    ]  # fmt: skip
    values = {
        "pack": options.name, "target": target.id, "made_with": f"emoji_ldm {__version__}",
        "license": options.license.splitlines()[0] if options.license else None, "outline_px": options.outline_px,
        "limits": {"size_px": target.size_px, "max_bytes": target.max_bytes, "names": target.names,
                   "source": target.source, "checked": CHECKED},
        "emoji": emoji, "skipped": report.skipped,
    }  # fmt: skip
    return (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()
