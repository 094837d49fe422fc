"""Pages of a data set: images with their captions and duplicates, outcomes of URLs, and thumbnails.

The cursor of a page is a place in the table's files, whose order is part of the version. A search looks at most at
`MAX_SCANNED` rows for one answer, which then has fewer rows than were asked for and a cursor that goes on, so that no
request takes many seconds.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from emoji_ldm.dataset.caption_selection import SELECTION_COLUMNS, choose_captions
from emoji_ldm.dataset.table import Table
from emoji_ldm.images.license_tag import license_of
from emoji_ldm.outcomes import Outcome
from emoji_ldm.schemas import CAPTION_ATTRIBUTES, CAPTIONS
from emoji_ldm.serve.datasets.dataset_points import DatasetPoint
from emoji_ldm.serve.datasets.image_index import read_rows
from emoji_ldm.serve.datasets.image_search import ImageFilter
from emoji_ldm.serve.datasets.row_scan import scan_rows
from emoji_ldm.serve.datasets.stored_pictures import PICTURES
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.small_pictures import small_png

MAX_SCANNED = 100_000  # rows for one answer
MAX_DUPLICATES = 20  # URLs of an image that are listed
CURSOR = re.compile(r"([0-9]{1,9})\.([0-9]{1,12})")
IMAGE_COLUMNS = ("image_id", "title", "tags", "width", "height", "has_alpha", "num_frames", "source_url", "page_url",
                 "source_format", "fetched_at")  # fmt: skip
CAPTION_COLUMNS = tuple(CAPTIONS.schema.names)
OUTCOME_COLUMNS = ("url", "kind", "outcome", "reason", "image_id", "http_status", "finished_at")

Row = dict[str, Any]


def image_page(point: DatasetPoint, chosen: ImageFilter, after: str, limit: int) -> dict[str, Any]:
    """Return a page of images in the order of the table; raises RequestError for a bad cursor."""
    found, cursor = _page(point.images, IMAGE_COLUMNS, (after, limit), lambda rows: chosen.choose(rows, point.captions))
    captions = _captions_of(point, [row["image_id"] for row in found])
    data = _with_duplicates(point, [_image(row, captions.get(row["image_id"], [])) for row in found])
    return {"version": point.id, "data": data, "next": cursor, "has_more": cursor is not None}


def images_of(point: DatasetPoint, ids: Collection[str]) -> dict[str, Row]:
    """Return images with everything that is known of them, {id: image}; those that do not exist are left out."""
    rows = read_rows(point.images, ids, IMAGE_COLUMNS).to_pylist()
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

    def choose(rows: pa.Table) -> NDArray[np.bool_]:
        chosen = np.ones(rows.num_rows, bool)
        for column, value in (("kind", kind), ("outcome", outcome)):
            if value:
                chosen &= np.asarray(pc.fill_null(pc.equal(rows[column], value), False), bool)
        return chosen

    found, cursor = _page(point.outcomes, OUTCOME_COLUMNS, (after, limit), choose)
    data = [{**row, "reason": row["reason"] or "", "finished_at": _seconds(row["finished_at"])} for row in found]
    return {"version": point.id, "data": data, "next": cursor, "has_more": cursor is not None}


def thumbnail(point: DatasetPoint, image_id: str, side_px: int) -> bytes:
    """Return an image as PNG, at most so large; what other writers may have put into the table is decoded as well.

    Raises:
        RequestError: (404) There is no such image, or its bytes are none.
    """
    png = small_png(PICTURES.read(point.images, image_id) or b"", side_px)
    if png is None:
        raise RequestError(f"version {point.id} has no picture {image_id[:80]!r}", status=404, param="image_id",
                           code="image_not_found")  # fmt: skip
    return png


def revision_of(captions: Iterable[Row]) -> str:
    """Return what an image's captions are told apart by: a hash of all of them."""
    facts = sorted((each["id"], each["caption"], each["status"]) for each in captions)
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _page(
    table: Table, columns: Sequence[str], page: tuple[str, int], choose: Callable[[pa.Table], NDArray[np.bool_]]
) -> tuple[list[Row], str | None]:
    """Return up to `limit` rows that are chosen, and the cursor of what follows, None at the end."""
    after, limit = page
    found, num_scanned = list[Row](), 0
    for (file, first), part in scan_rows(table, columns, _start(after)):
        if len(found) == limit or num_scanned == MAX_SCANNED:
            return found, f"{file}.{first}"
        rows = part.slice(0, MAX_SCANNED - num_scanned)
        num_scanned += rows.num_rows
        places = np.flatnonzero(choose(rows))
        shown, left = places[: limit - len(found)], places[limit - len(found) :]
        found += rows.take(shown).to_pylist()
        # The cursor is the place of the first row that was not looked at, or not shown.
        if len(left) or rows.num_rows < part.num_rows:
            return found, f"{file}.{first + (int(left[0]) if len(left) else rows.num_rows)}"
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
    rows = read_rows(point.captions, ids, CAPTION_COLUMNS)
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
    return {
        "id": row["image_id"], "title": row["title"] or "", "tags": tags, "license": license_of(tags),
        **{name: row[name] or 0 for name in ("width", "height", "num_frames")}, "has_alpha": bool(row["has_alpha"]),
        **{name: row[name] or "" for name in ("source_url", "page_url", "source_format")},
        "fetched_at": _seconds(row["fetched_at"]), "captions": captions, "revision": revision_of(captions),
    }  # fmt: skip


def _with_duplicates(point: DatasetPoint, images: list[Row]) -> list[Row]:
    """Add the URLs whose images were dropped because they equal these."""
    columns = ("url", "outcome", "reason", "image_id")
    rows = read_rows(point.outcomes, [image["id"] for image in images], columns).to_pylist()
    urls = dict[str, list[Mapping[str, str]]]()
    for row in rows:
        if row["outcome"] == Outcome.DUPLICATE:
            urls.setdefault(row["image_id"], []).append({"url": row["url"], "reason": row["reason"] or ""})
    return [{**image, "num_duplicates": len(found := urls.get(image["id"], [])), "duplicates": found[:MAX_DUPLICATES]}
            for image in images]  # fmt: skip


def _seconds(moment: Any) -> int | None:
    return None if moment is None else int(moment.timestamp())
