"""`dataset stats`: counts and distributions of a store's tables, as plain data and as text of at most 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import DatasetError
from emoji_ldm.schemas import CAPTION_ATTRIBUTES

MAX_VALUES = 12  # most frequent values of a column that are shown
MAX_REASONS = 3  # most frequent failures of an engine that are shown
WIDTH = 80
LABEL_WIDTH = 22
NO_BREAK = "\xa0"


def table_stats(tables: Mapping[str, Table]) -> dict[str, Any]:
    """Counts of the given tables ({name: table}), ready for JSON (`--json`); image bytes are not read.

    Raises:
        DatasetError: None of the tables exists.
    """
    existing = {name: table for name, table in tables.items() if table.exists}
    if not existing:
        where = next(iter(tables.values())).store.uri
        raise DatasetError(f"no tables in {where}; fill them with: emoji-ldm crawl")
    # Only these tables have distributions that say something about the data; of the others the counts are enough.
    parts = {"images": _images, "outcomes": _outcomes, "captions": _captions}
    data: dict[str, Any] = {"tables": {name: _table(table) for name, table in existing.items()}}
    data |= {name: part(existing[name]) for name, part in parts.items() if name in existing and existing[name].count()}
    if "images" in data and "captions" in data:
        # Keys are intersected, since captions may belong to images that were removed.
        captioned = len(existing["images"].keys() & data["captions"].pop("image_ids"))
        data["captions"]["images_without"] = data["tables"]["images"]["rows"] - captioned
    data.get("captions", {}).pop("image_ids", None)
    return data


def format_stats(data: Mapping[str, Any]) -> str:
    """The result of `table_stats` as text of at most 80 columns."""
    lines = ["table            version         rows     files            size"]
    for name, facts in data["tables"].items():
        size = f"{facts['bytes'] / 1e6:,.1f} MB"
        lines.append(f"  {name:<14} {facts['version']:>7} {facts['rows']:>12,} {facts['files']:>9,} {size:>15}")
    for section in ("images", "outcomes", "captions"):
        if section in data:
            lines += ["", section, *_section(data[section])]
    return "\n".join(lines) + "\n"


def _table(table: Table) -> dict[str, int]:
    files = table.live_files().values()
    return {"version": table.version, "rows": table.count(), "files": len(files),
            "bytes": sum(file.size for file in files)}  # fmt: skip


def _images(table: Table) -> dict[str, Any]:
    # Only these columns are read: the images themselves are nearly all of the table's bytes, and no figure needs them.
    rows = table.read(["tags", "width", "height", "has_alpha", "num_frames", "source_format"])
    sizes = pc.binary_join_element_wise(rows["width"].cast(pa.string()), rows["height"].cast(pa.string()), " x ")
    return {
        "tags": _frequent(pc.list_flatten(rows["tags"]), None),
        "sizes_px": _frequent(sizes),
        "formats": _frequent(rows["source_format"]),
        "alpha_share": _share(rows["has_alpha"]),
        "animated_share": _share(pc.greater(rows["num_frames"], 1)),
    }


def _outcomes(table: Table) -> dict[str, Any]:
    rows = table.read(["kind", "outcome"])
    return {kind: _frequent(rows.filter(pc.field("kind") == kind)["outcome"], None)
            for kind in sorted(pc.unique(rows["kind"]).drop_null().to_pylist())}  # fmt: skip


def _captions(table: Table) -> dict[str, Any]:
    rows = table.read(["image_id", "caption", "engine", "status", "reason", *CAPTION_ATTRIBUTES])
    # Failed captions have empty texts and attributes, which would distort every share below.
    good = rows.filter(pc.field("status") == "ok")
    words = pc.list_value_length(pc.utf8_split_whitespace(good["caption"]))
    return {
        "engines": {engine: _engine(rows.filter(pc.field("engine") == engine))
                    for engine in sorted(pc.unique(rows["engine"]).drop_null().to_pylist())},
        "words": _distribution(words),
        "attributes_filled": {name: _share(pc.greater(pc.utf8_length(good[name]), 0)) for name in CAPTION_ATTRIBUTES},
        "expressions": _frequent(good["expression"]),
        "colours": _frequent(good["skin_color"]),
        "image_ids": set(good["image_id"].to_pylist()),
    }  # fmt: skip


def _engine(rows: pa.Table) -> dict[str, Any]:
    failed = rows.filter(pc.field("status") != "ok")
    return {**_frequent(rows["status"], None), "reasons": _frequent(failed["reason"], MAX_REASONS)}


def _frequent(values: pa.ChunkedArray | pa.Array, limit: int | None = MAX_VALUES) -> dict[str, int]:
    """{value: number of rows}, the most frequent first; empty values are left out."""
    counts = [(str(entry["values"]), int(entry["counts"])) for entry in values.value_counts().to_pylist()
              if entry["values"] not in (None, "")]  # fmt: skip
    # Ties are broken by value, so that the same table always gives the same text.
    return dict(sorted(counts, key=lambda pair: (-pair[1], pair[0]))[:limit])


def _share(values: pa.ChunkedArray | pa.Array) -> float:
    """Share of true values; null counts as false."""
    return round(float(pc.mean(pc.fill_null(values, False)).as_py() or 0.0), 4)


def _distribution(values: pa.ChunkedArray) -> dict[str, float]:
    # Minimum and quantiles of nothing are null, and would be printed as such.
    if not len(values):
        return {}
    low, high = pc.min_max(values).as_py().values()
    return {
        "least": low,
        "median": pc.quantile(values)[0].as_py(),
        "mean": round(pc.mean(values).as_py(), 1),
        "most": high,
    }


def _section(facts: Mapping[str, Any]) -> Iterator[str]:
    for name, value in facts.items():
        # Outcomes and engines have one level more: they are printed under names of their own.
        nested = isinstance(value, Mapping) and any(isinstance(inner, Mapping) for inner in value.values())
        if not nested:
            yield from _entry(name, value)
            continue
        for inner_name, inner in value.items():
            yield from _entry(inner_name, {key: count for key, count in inner.items() if key != "reasons"})
            for reason, number in inner.get("reasons", {}).items():
                text = f"    {number:,} x {reason}"
                yield text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


def _entry(name: str, value: Any) -> Iterator[str]:
    # The names of the fields decide how they are printed: shares end in `_share` or `_filled`.
    number = _percent if name.endswith(("_share", "_filled")) else _number
    if isinstance(value, Mapping):
        # Breaking spaces inside a pair are replaced, so that `wrap` never separates a value from its count.
        pairs = (f"{key} {number(count)}".replace(" ", NO_BREAK) for key, count in value.items())
        text = ", ".join(pairs) or "-"
    else:
        text = number(value)
    label = f"  {name.replace('_', ' ')[: LABEL_WIDTH - 1]:<{LABEL_WIDTH}}"
    lines = textwrap.wrap(text, WIDTH, initial_indent=label, subsequent_indent=" " * len(label))
    yield from (line.replace(NO_BREAK, " ") for line in lines)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _percent(share: float) -> str:
    return f"{share:.1%}"
