"""What changed between two versions, image by image: added, removed, changed, or described differently.

The comparison is that of `emoji-ldm dataset diff`, whose memory grows with the rows of the files that the two versions
do not share. The service compares versions up to `MAX_ROWS` apart and keeps the last few answers, since a person pages
through them; larger ones are for the command line.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions.diff import TableDiff, diff
from emoji_ldm.serve.datasets.dataset_pages import images_of
from emoji_ldm.serve.datasets.dataset_points import DatasetPoint
from emoji_ldm.serve.errors import RequestError

MAX_ROWS = 50_000  # in files that are not shared, of both sides
MAX_KEPT = 4  # comparisons in memory

ChangeKind = Literal["added", "removed", "changed", "captions"]


@dataclass(frozen=True)
class DatasetChanges:
    """Ids of images with what happened to them, in the order of kinds and ids."""

    before: DatasetPoint
    after: DatasetPoint
    tables: list[TableDiff]
    images: list[tuple[str, ChangeKind, tuple[str, ...]]]  # id, kind, fields of `images` that differ

    def page(self, kind: ChangeKind | None, after: str, limit: int) -> dict[str, Any]:
        """Return a page of the images of a kind, all kinds if it is None; `after` is an id."""
        chosen = [each for each in self.images if kind in (None, each[1])]
        start = next((place + 1 for place, each in enumerate(chosen) if each[0] == after), 0) if after else 0
        if after and not start:
            raise RequestError(f"after={after[:80]!r} is no image of this list", param="after")
        shown = chosen[start : start + limit]
        ids = [image_id for image_id, _, _ in shown]
        old, new = images_of(self.before, ids), images_of(self.after, ids)
        data = [{"id": image_id, "change": change, "fields": list(fields), "before": old.get(image_id),
                 "after": new.get(image_id)} for image_id, change, fields in shown]  # fmt: skip
        more = start + limit < len(chosen)
        return {"before": self.before.id, "after": self.after.id, "tables": [_counts(each) for each in self.tables],
                "kinds": _kinds(self.images), "data": data, "has_more": more,
                "next": ids[-1] if more else None}  # fmt: skip


class DatasetComparisons:
    """Compares versions; one at a time, since each takes a core."""

    def __init__(self) -> None:
        self._kept = OrderedDict[tuple[str, str], DatasetChanges]()
        self._lock = threading.Lock()

    def compare(self, before: DatasetPoint, after: DatasetPoint) -> DatasetChanges:
        """Return the changes from one version to another; RequestError (400) if they are too far apart."""
        key = before.id, after.id
        with self._lock:
            if key not in self._kept:
                self._kept[key] = _compare(before, after)
            self._kept.move_to_end(key)
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
            return self._kept[key]


def _compare(before: DatasetPoint, after: DatasetPoint) -> DatasetChanges:
    pairs = [(before.images, after.images), (before.captions, after.captions)]
    num_rows = sum(_unshared_rows(a, b) for a, b in pairs)
    if num_rows > MAX_ROWS:
        raise RequestError(f"the versions differ in files of {num_rows:,} rows, and the service compares {MAX_ROWS:,}; "
                           "use: emoji-ldm dataset diff", param="since", code="too_many_changes")  # fmt: skip
    images, captions = (diff(a, b) for a, b in pairs)
    found: dict[str, tuple[ChangeKind, tuple[str, ...]]] = dict.fromkeys(_described(captions), ("captions", ()))
    found |= {image_id: ("changed", fields) for image_id, fields in images.changed.items()}
    found |= dict.fromkeys(images.removed, ("removed", ()))
    found |= dict.fromkeys(images.added, ("added", ()))
    order = {"added": 0, "removed": 1, "changed": 2, "captions": 3}
    listed = sorted(((image_id, *what) for image_id, what in found.items()), key=lambda each: (order[each[1]], each[0]))
    return DatasetChanges(before, after, [images, captions], listed)


def _unshared_rows(a: Table, b: Table) -> int:
    files_a, files_b = ({table.resolve(path): file.num_rows for path, file in table.live_files().items()}
                        for table in (a, b))  # fmt: skip
    return sum((files_a | files_b)[path] for path in files_a.keys() ^ files_b.keys())


def _described(captions: TableDiff) -> set[str]:
    """Return the images whose captions differ."""
    sides = (captions.a, [*captions.removed, *captions.changed]), (captions.b, [*captions.added, *captions.changed])
    parts = (table.read_located(table.locate(keys), ["image_id"]) for table, keys in sides if keys)
    return {image_id for part in parts for image_id in part["image_id"].to_pylist() if image_id is not None}


def _counts(found: TableDiff) -> dict[str, Any]:
    facts = found.to_dict(0)
    return {name: facts[name] for name in ("table", "rows", "added", "removed", "changed", "fields")}


def _kinds(images: Iterable[tuple[str, ChangeKind, tuple[str, ...]]]) -> Mapping[ChangeKind, int]:
    kinds = [kind for _, kind, _ in images]
    return {kind: kinds.count(kind) for kind in ("added", "removed", "changed", "captions")}
