"""Pages of a data set: images with their captions and duplicates, outcomes of URLs, and thumbnails.

The cursor of a page is a place in the table's files, whose order is part of the version. A search reads at most
`MAX_SCANNED` rows for one answer, which then has fewer rows than were asked for and a cursor that goes on, so that no
request takes seconds or holds a table in memory.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow.compute as pc

from emoji_ldm.dataset.caption_selection import HUMAN, SELECTION_COLUMNS, choose_captions
from emoji_ldm.dataset.table import Table
from emoji_ldm.outcomes import Outcome
from emoji_ldm.schemas import CAPTION_ATTRIBUTES, CAPTIONS
from emoji_ldm.serve.datasets.dataset_points import DatasetPoint
from emoji_ldm.serve.datasets.key_index import KeyIndex, read_places, scan_rows
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.small_pictures import small_png

MAX_SCANNED = 3000  # rows for one answer
MAX_DUPLICATES = 20  # URLs of an image that are listed
CURSOR = re.compile(r"([0-9]{1,9})\.([0-9]{1,12})")
LICENSE_TAG = "license:"
IMAGE_COLUMNS = ("image_id", "title", "tags", "width", "height", "has_alpha", "num_frames", "source_url", "page_url",
                 "source_format", "fetched_at")  # fmt: skip
CAPTION_COLUMNS = tuple(CAPTIONS.schema.names)
OUTCOME_COLUMNS = ("url", "kind", "outcome", "reason", "image_id", "http_status", "finished_at")
CaptionState = Literal["any", "captioned", "human", "uncaptioned"]

Row = dict[str, Any]
INDEX = KeyIndex()


@dataclass(frozen=True)
class ImageFilter:
    """Which images a page shows."""

    search: str = ""  # in title, tags, captions, or the beginning of the id
    tag: str = ""
    captions: CaptionState = "any"

    def admits(self, image: Row) -> bool:
        """Tell whether an image with its captions is shown."""
        if self.tag and self.tag not in image["tags"]:
            return False
        used = [each for each in image["captions"] if each["used"]]
        if self.captions == "human" and not any(each["engine"] == HUMAN for each in used):
            return False
        if self.captions != "any" and (self.captions == "uncaptioned") == bool(used):
            return False
        texts = [image["title"], *image["tags"], *(each["caption"] for each in image["captions"])]
        wanted = self.search.casefold()
        return not wanted or image["id"].startswith(wanted) or any(wanted in text.casefold() for text in texts)


def image_page(point: DatasetPoint, chosen: ImageFilter, after: str, limit: int) -> dict[str, Any]:
    """Return a page of images in the order of the table; raises RequestError for a bad cursor."""

    def complete(rows: list[Row]) -> list[Row]:
        captions = _captions_of(point, [row["image_id"] for row in rows])
        return [_image(row, captions.get(row["image_id"], [])) for row in rows]

    found, cursor = _page(point.images, IMAGE_COLUMNS, (after, limit), complete, chosen.admits)
    return {"version": point.id, "data": _with_duplicates(point, found), "next": cursor, "has_more": cursor is not None}


def images_of(point: DatasetPoint, ids: Collection[str]) -> dict[str, Row]:
    """Return images with everything that is known of them, {id: image}; those that do not exist are left out."""
    rows = INDEX.read(point.images, "image_id", ids, IMAGE_COLUMNS).to_pylist()
    captions = _captions_of(point, [row["image_id"] for row in rows])
    found = [_image(row, captions.get(row["image_id"], [])) for row in rows]
    return {image["id"]: image for image in _with_duplicates(point, found)}


def find_image(point: DatasetPoint, image_id: str) -> Row:
    """Return one image; RequestError (404) if there is none."""
    found = images_of(point, [image_id])
    if image_id not in found:
        raise RequestError(f"version {point.id} has no image {image_id[:80]!r}", status=404, param="image_id",
                           code="image_not_found")  # fmt: skip
    return found[image_id]


def outcome_page(point: DatasetPoint, kind: str, outcome: str, after: str, limit: int) -> dict[str, Any]:
    """Return a page of URLs with what became of them; empty texts choose all."""

    def wanted(row: Row) -> bool:
        return (not kind or row["kind"] == kind) and (not outcome or row["outcome"] == outcome)

    def complete(rows: list[Row]) -> list[Row]:
        return [{**row, "reason": row["reason"] or "", "finished_at": _seconds(row["finished_at"])} for row in rows]

    found, cursor = _page(point.outcomes, OUTCOME_COLUMNS, (after, limit), complete, wanted)
    return {"version": point.id, "data": found, "next": cursor, "has_more": cursor is not None}


def thumbnail(point: DatasetPoint, image_id: str, side_px: int) -> bytes:
    """Return an image as PNG, at most so large; what other writers may have put into the table is decoded as well.

    Raises:
        RequestError: (404) There is no such image, or its bytes are none.
    """
    rows = read_places(point.images, INDEX.find(point.images, "image_id", [image_id]), ["image_id", "image"])
    data = next(
        (row["image"]["bytes"] for row in rows.to_pylist() if row["image_id"] == image_id and row["image"]), b""
    )
    png = small_png(data or b"", side_px)
    if png is None:
        raise RequestError(f"version {point.id} has no picture {image_id[:80]!r}", status=404, param="image_id",
                           code="image_not_found")  # fmt: skip
    return png


def revision_of(captions: Iterable[Row]) -> str:
    """Return what an image's captions are told apart by: a hash of all of them."""
    facts = sorted((each["id"], each["caption"], each["status"]) for each in captions)
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _page(
    table: Table, columns: Collection[str], page: tuple[str, int], complete: Callable[[list[Row]], list[Row]],
    admits: Callable[[Row], bool],
) -> tuple[list[Row], str | None]:  # fmt: skip
    """Return up to `limit` rows that are admitted, and the cursor of what follows, None at the end."""
    after, limit = page
    start, found, num_scanned = _start(after), list[Row](), 0
    for (file, first), rows in scan_rows(table, tuple(columns), start):
        for offset, row in enumerate(complete(rows)):
            # The cursor is the place of the first row that was not looked at.
            if len(found) == limit or num_scanned == MAX_SCANNED:
                return found, f"{file}.{first + offset}"
            num_scanned += 1
            if admits(row):
                found.append(row)
    return found, None


def _start(after: str) -> tuple[int, int]:
    if not after:
        return 0, 0
    match = CURSOR.fullmatch(after)
    if not match:
        raise RequestError(f"after={after[:80]!r} is no cursor; take it from `next` of the page before", param="after")
    return int(match[1]), int(match[2])


def _captions_of(point: DatasetPoint, ids: Collection[str]) -> dict[str, list[Row]]:
    """Return the captions of images, those that are used first and in their order."""
    rows = INDEX.read(point.captions, "image_id", ids, CAPTION_COLUMNS)
    good = rows.filter(pc.equal(rows["status"], "ok")).select(SELECTION_COLUMNS)
    order = {(row["image_id"], row["caption"]): place for place, row in enumerate(choose_captions(good).to_pylist())}
    unused = len(order)
    found = dict[str, list[tuple[int, Row]]]()
    for row in rows.to_pylist():
        place = order.get((row["image_id"], row["caption"]), unused) if row["status"] == "ok" else unused
        found.setdefault(row["image_id"], []).append((place, {**_caption(row), "used": place != unused}))
    return {image_id: [caption for _, caption in sorted(pairs, key=_by_place)] for image_id, pairs in found.items()}


def _by_place(pair: tuple[int, Row]) -> tuple[int, str, int, str]:
    place, caption = pair
    return place, caption["engine"], caption["number"], caption["id"]


def _caption(row: Row) -> Row:
    attributes = {name: row[name] for name in CAPTION_ATTRIBUTES if row[name]}
    texts = {name: row[name] or "" for name in ("caption", "engine", "status", "reason")}
    return {"id": row["caption_id"], **texts, "number": row["number"] or 0, "attributes": attributes}


def _image(row: Row, captions: list[Row]) -> Row:
    tags = row["tags"] or []
    terms = (tag.removeprefix(LICENSE_TAG) for tag in tags if tag.startswith(LICENSE_TAG))
    return {
        "id": row["image_id"], "title": row["title"] or "", "tags": tags, "license": next(terms, None),
        **{name: row[name] or 0 for name in ("width", "height", "num_frames")}, "has_alpha": bool(row["has_alpha"]),
        **{name: row[name] or "" for name in ("source_url", "page_url", "source_format")},
        "fetched_at": _seconds(row["fetched_at"]), "captions": captions, "revision": revision_of(captions),
    }  # fmt: skip


def _with_duplicates(point: DatasetPoint, images: list[Row]) -> list[Row]:
    """Add the URLs whose images were dropped because they equal these."""
    columns = ("url", "outcome", "reason", "image_id")
    rows = INDEX.read(point.outcomes, "image_id", [image["id"] for image in images], columns).to_pylist()
    urls = dict[str, list[Mapping[str, str]]]()
    for row in rows:
        if row["outcome"] == Outcome.DUPLICATE:
            urls.setdefault(row["image_id"], []).append({"url": row["url"], "reason": row["reason"] or ""})
    return [{**image, "num_duplicates": len(found := urls.get(image["id"], [])), "duplicates": found[:MAX_DUPLICATES]}
            for image in images]  # fmt: skip


def _seconds(moment: Any) -> int | None:
    return None if moment is None else int(moment.timestamp())
