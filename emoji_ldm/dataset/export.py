"""`dataset export`: writes a version of the data set in a format that other programs read.

Rows are streamed, oldest first, so that memory stays flat and the export of a grown data set begins with the same rows
as the one before.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from emoji_ldm import __version__
from emoji_ldm.dataset.caption_selection import good_captions
from emoji_ldm.dataset.formats import huggingface, image_csv, link_captions, webdataset
from emoji_ldm.dataset.formats.atomic_output import atomic_output
from emoji_ldm.dataset.formats.export_options import ExportOptions, ExportPlan, Row
from emoji_ldm.dataset.split import assign_part, check_fractions
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import ConfigError, DatasetError
from emoji_ldm.progress import track
from emoji_ldm.store import Store

FORMATS: Mapping[str, Callable[[Store, Iterator[Row], ExportPlan], None]] = {
    "csv": image_csv.write_image_csv,
    "json": link_captions.write_json,
    "txt": link_captions.write_txt,
    "hf": huggingface.write_huggingface,
    "webdataset": webdataset.write_webdataset,
}
NEED_CAPTIONS = ("json", "txt")
SINGLE_PART = {"train": 1.0}


def export(images: Table, captions: Table, options: ExportOptions) -> dict[str, object]:
    """Write the images and their captions of status ok.

    Returns:
        Counts, versions and the target, for people.

    Raises:
        ConfigError: The format or colour is unknown, the fractions are wrong, or the target is not empty.
        DatasetError: There is no image, or no caption although the format requires one.
        StoreError: The target cannot be written.
    """
    if options.format not in FORMATS:
        close = difflib.get_close_matches(options.format, FORMATS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"unknown export format {options.format!r}{hint} (formats: {', '.join(FORMATS)})")
    # Everything that can be refused is refused before the target is touched, so a mistyped option leaves no trace.
    check_fractions(options.splits or SINGLE_PART)
    texts = good_captions(captions)
    parts = _parts(images, texts, options)
    # The plan holds the counts of rows per part, since some formats write them before the first row: file names of
    # shards state their number, and the data card the sizes.
    plan = _export_plan(images, captions, options, parts, len(texts.keys() & parts.keys()))
    if options.format == "csv":
        image_csv.check_options(plan)
    # The rows are a generator, so that one batch of images is in memory while the writer works on it. Nothing has the
    # final name before all of it is written.
    with atomic_output(options.target, _manifest(plan)) as output, track("export", len(parts), "images") as progress:
        FORMATS[options.format](output, _rows(images, texts, parts, progress.advance), plan)
    left_out = images.count() - len(parts)
    return {
        "images": len(parts), "with captions": plan.captioned, "parts": dict(plan.parts),
        **({"left out (no good caption)": left_out} if left_out else {}),
        "versions": dict(plan.versions), "target": options.target,
    }  # fmt: skip


def _parts(images: Table, texts: Mapping[str, list[str]], options: ExportOptions) -> dict[str, str]:
    """{image_id: part} of all images to export."""
    image_ids, fractions = images.keys(), options.splits or SINGLE_PART
    if not image_ids:
        raise DatasetError(f"{images.store.uri} has no images to export; run: emoji-ldm crawl")
    if options.captioned or options.format in NEED_CAPTIONS:
        # Images without a caption are left out, and the caller reports how many.
        image_ids &= texts.keys()
        if not image_ids:
            why = "--captioned" if options.captioned else f"format {options.format}"
            raise DatasetError(f"{images.store.uri} has no good caption, which {why} needs; run: emoji-ldm caption")
    return {image_id: assign_part(image_id, fractions, options.salt) for image_id in image_ids}


def _export_plan(
    images: Table, captions: Table, options: ExportOptions, parts: Mapping[str, str], captioned: int
) -> ExportPlan:
    counts = Counter(parts.values())
    store = images.store
    return ExportPlan(
        options,
        {name: counts[name] for name in options.splits or SINGLE_PART if counts[name]},
        captioned,
        # A published data card must not name folders of this machine.
        store.uri if store.is_s3 else Path(store.root).name,
        {table.spec.name: table.version for table in (images, captions) if table.exists},
    )


def _rows(images: Table, texts: Mapping[str, list[str]], parts: Mapping[str, str],
          advance: Callable[[int], None]) -> Iterator[Row]:  # fmt: skip
    # The fingerprint serves the crawl alone, and readers of an export could not interpret it.
    columns = [name for name in images.spec.schema.names if name != "fingerprint"]
    for batch in images.batches(columns):
        exported = [row for row in batch.to_pylist() if row["image_id"] in parts]
        for row in exported:
            several = texts.get(row["image_id"], [])
            yield row | {
                "part": parts[row["image_id"]],
                "captions": several,
                "caption": several[0] if several else None,
            }
        advance(len(exported))


def _manifest(plan: ExportPlan) -> dict[str, object]:
    # The manifest names the versions that were read, so an export can be made again from the store, byte by byte.
    return {"format": plan.options.format, "parts": dict(plan.parts), "captioned": plan.captioned,
            "store": plan.source, "versions": dict(plan.versions), "salt": plan.options.salt,
            "code": __version__}  # fmt: skip
