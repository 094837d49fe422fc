"""Which images a page shows, decided column by column: a search goes through 100,000 images in about a second.

Texts of captions are in a table of their own. They are searched there once for each filter and version; what is kept
is which images they belong to, since a person pages through what was found.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from emoji_ldm.dataset.caption_selection import HUMAN
from emoji_ldm.dataset.table import Table
from emoji_ldm.serve.datasets.row_scan import scan_rows

MAX_KEPT = 8  # sets of images, each of at most all that have captions

CaptionState = Literal["any", "captioned", "human", "uncaptioned"]


@dataclass(frozen=True)
class ImageFilter:
    """Which images a page shows."""

    search: str = ""  # in title, tags, captions, or the beginning of the id
    tag: str = ""
    captions: CaptionState = "any"

    def choose(self, rows: pa.Table, captions: Table) -> NDArray[np.bool_]:
        """Return which of these rows of `images` are shown, with the captions of their version."""
        chosen = np.ones(rows.num_rows, bool)
        if self.tag:
            chosen &= _any_tag(rows["tags"], lambda tags: pc.equal(tags, self.tag))
        if self.captions != "any":
            engine = HUMAN if self.captions == "human" else ""
            has = _contains(MATCHES.of(captions, "ok", engine), rows["image_id"])
            chosen &= ~has if self.captions == "uncaptioned" else has
        if self.search:
            hits = _flags(_matches(rows["title"], self.search))
            hits |= _flags(pc.starts_with(rows["image_id"], self.search.casefold()))
            hits |= _any_tag(rows["tags"], lambda tags: _matches(tags, self.search))
            chosen &= hits | _contains(MATCHES.of(captions, "text", self.search), rows["image_id"])
        return chosen


class CaptionMatches:
    """The images whose captions are of an engine, or hold a text."""

    def __init__(self) -> None:
        self._kept = OrderedDict[tuple[str, int, str, str], frozenset[str]]()
        self._lock = threading.Lock()

    def of(self, captions: Table, kind: Literal["ok", "text"], value: str) -> frozenset[str]:
        """Return the ids of images with a usable caption (of an engine, if `value` is one), or with a text in one."""
        # By folder: a branch that was made anew has the name of another.
        key = captions.store.table_uri(captions.spec.name), captions.version, kind, value
        with self._lock:
            if key not in self._kept:
                self._kept[key] = frozenset(_find(captions, kind, value))
            self._kept.move_to_end(key)
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
            return self._kept[key]


MATCHES = CaptionMatches()


def _find(captions: Table, kind: Literal["ok", "text"], value: str) -> set[str]:
    found = set[str]()
    columns = ("image_id", "caption") if kind == "text" else ("image_id", "engine", "status")
    for _, rows in scan_rows(captions, columns):
        if kind == "text":
            hits = _matches(rows["caption"], value)
        else:
            hits = pc.equal(rows["status"], "ok")
            hits = pc.and_(hits, pc.equal(rows["engine"], value)) if value else hits
        found.update(rows["image_id"].filter(hits).to_pylist())
    return found


def _matches(texts: pa.Array | pa.ChunkedArray, wanted: str) -> pa.Array | pa.ChunkedArray:
    return pc.match_substring(texts, wanted, ignore_case=True)


def _flags(values: pa.Array | pa.ChunkedArray) -> NDArray[np.bool_]:
    """Return booleans of which null counts as false."""
    return np.asarray(pc.fill_null(values, False), bool)


def _any_tag(tags: pa.ChunkedArray, test: Callable[[pa.Array], pa.Array]) -> NDArray[np.bool_]:
    """Return which rows have a tag that passes the test."""
    found = np.zeros(len(tags), bool)
    whole = tags.combine_chunks()
    found[np.asarray(pc.list_parent_indices(whole))[_flags(test(pc.list_flatten(whole)))]] = True
    return found


def _contains(ids: frozenset[str], column: pa.ChunkedArray) -> NDArray[np.bool_]:
    return np.fromiter((each in ids for each in column.to_pylist()), bool, len(column))
