"""Files of {link, caption} records: CSV, TSV, JSON, JSON Lines, or text with one link per line; plain or .gz."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TextIO

from emoji_ldm.crawl.fetch.local_files import uri_of
from emoji_ldm.crawl.page_types import MAX_TITLE, Tile
from emoji_ldm.crawl.sources.file_pages import READ_ERRORS, BadRecord, name_of, open_text
from emoji_ldm.errors import ConfigError, EmojiLdmError

LINK = ("link", "url", "image_url")
CAPTION = ("caption", "title", "image_title")
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".txt")
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
NUM_CHECKED_RECORDS = 100  # records in which a link must show before a file is taken for one without

Record = Mapping[str, Any] | BadRecord


def check_files(files: Sequence[str]) -> None:
    """ConfigError if a file is not there, of no known kind, or gives no link."""
    for name in files:
        uri = uri_of(name)
        try:
            first = list(islice(_records(uri), NUM_CHECKED_RECORDS))
        except (*READ_ERRORS, EmojiLdmError) as error:
            raise ConfigError(f"crawl.files: {name} cannot be read: {error}") from None
        if not first:
            raise ConfigError(f"crawl.files: {name} holds no records")
        if not any(isinstance(tile_of(record, ""), Tile) for record in first):
            raise ConfigError(f"crawl.files: {name} gives no link{_columns(first)}")


def tiles_of(uri: str) -> Iterator[Tile | BadRecord]:
    """Every record as a tile or the reason why it is none; the tag is its own, or the file's name."""
    tag = name_of(uri).partition(".")[0]
    return (tile_of(record, tag) for record in _records(uri))


def tile_of(record: Record, tag: str) -> Tile | BadRecord:
    """One record as a tile."""
    if isinstance(record, BadRecord):
        return record
    link, title = _field(record, LINK), _field(record, CAPTION)
    if not link:
        return BadRecord("no link")
    if not SCHEME.match(link):
        return BadRecord(f"{link[:60]!r} is no address")
    return Tile(link, title[:MAX_TITLE], _field(record, ("tag",)) or tag)


def _records(uri: str) -> Iterator[Record]:
    kind = next((suffix for suffix in SUFFIXES if uri.removesuffix(".gz").lower().endswith(suffix)), "")
    if not kind:
        raise ConfigError(f"its name must end with {', '.join(SUFFIXES)} (or one of these and .gz)")
    with open_text(uri) as text:
        if kind in (".csv", ".tsv"):
            yield from _csv(text, "\t" if kind == ".tsv" else ",")
        elif kind == ".json":
            yield from _json(text)
        elif kind == ".txt":
            yield from map(_line, filter(str.strip, text))
        else:
            yield from map(_json_line, filter(str.strip, text))


def _csv(text: TextIO, delimiter: str) -> Iterator[Record]:
    rows = csv.reader(text, delimiter=delimiter)
    names = [name.strip().lower() for name in next(rows, [])]
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRecord(f"line {rows.line_num}: {error}")
            continue
        if row:
            many = len(row) > len(names)
            yield (
                BadRecord(f"line {rows.line_num}: {len(row)} fields, not {len(names)}")
                if many
                else dict(zip(names, row, strict=False))
            )


def _json(text: TextIO) -> Iterator[Record]:
    try:
        values = json.load(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"it is no JSON ({error})") from None
    if not isinstance(values, list):
        raise ConfigError(f"its JSON is no list of objects but {type(values).__name__}")
    return map(_object, values)


def _json_line(line: str) -> Record:
    try:
        return _object(json.loads(line))
    except (ValueError, RecursionError):
        return BadRecord(f"no JSON: {line.strip()[:60]!r}")


def _object(value: Any) -> Record:
    if not isinstance(value, dict):
        return BadRecord(f"no object: {str(value)[:60]!r}")
    return {str(name).strip().lower(): field for name, field in value.items()}


def _line(line: str) -> Record:
    """A line of text: a link, or a link, a tab and its caption."""
    link, _, caption = line.strip().partition("\t")
    return {"link": link, "caption": caption}


def _field(record: Mapping[str, Any], names: Iterable[str]) -> str:
    """The first of these columns that is not empty, in one line."""
    values = (record.get(name) for name in names)
    return next((text for value in values if value is not None and (text := " ".join(str(value).split()))), "")


def _columns(records: Sequence[Record]) -> str:
    known = list(dict.fromkeys(name for record in records if not isinstance(record, BadRecord) for name in record))
    if set(known) & set(LINK):
        return f" in its first {len(records)} records"
    found = f"its columns are {', '.join(known)[:200]}" if known else "no line is a record"
    return f": {found}; a column must be named {', '.join(LINK[:-1])} or {LINK[-1]}"
