"""Files of {link, caption} records as a source: CSV, TSV, JSON, JSON Lines, or text with one link per line.

Each may be compressed (`.gz`). A broken record is counted in the reason of its page and skipped; a file that gives no
link at all is a configuration error.
"""

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

# Names of the same column in different datasets; the first one with a value counts.
LINK_COLUMNS = ("link", "url", "image_url")
CAPTION_COLUMNS = ("caption", "title", "image_title")
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".txt")
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
NUM_CHECKED_RECORDS = 100  # a file without a link in its first records is taken for one without links

Record = Mapping[str, Any] | BadRecord


def check_files(files: Sequence[str]) -> None:
    """Raise ConfigError if a file does not exist, is of no known kind, or gives no link."""
    for name in files:
        uri = uri_of(name)
        try:
            # A sample: the file may have millions of records, and workers read it again.
            first = list(islice(_records(uri), NUM_CHECKED_RECORDS))
        except (*READ_ERRORS, EmojiLdmError) as error:
            raise ConfigError(f"crawl.files: {name} cannot be read: {error}") from None
        if not first:
            raise ConfigError(f"crawl.files: {name} holds no records")
        if not any(isinstance(tile_of(record, ""), Tile) for record in first):
            raise ConfigError(f"crawl.files: {name} gives no link{_describe_columns(first)}")


def tiles_of(uri: str) -> Iterator[Tile | BadRecord]:
    """Yield every record as a tile, or the reason why it is none; its tag is its own, or the file's name."""
    tag = name_of(uri).partition(".")[0]
    return (tile_of(record, tag) for record in _records(uri))


def tile_of(record: Record, tag: str) -> Tile | BadRecord:
    """Return one record as a tile."""
    if isinstance(record, BadRecord):
        return record
    # Records without link are counted, not fatal: real files have some.
    link, title = _first_value(record, LINK_COLUMNS), _first_value(record, CAPTION_COLUMNS)
    if not link:
        return BadRecord("no link")
    if not SCHEME.match(link):
        return BadRecord(f"{link[:60]!r} is not a URL")
    return Tile(link, title[:MAX_TITLE], _first_value(record, ("tag",)) or tag)


def _records(uri: str) -> Iterator[Record]:
    """Yield the records of a file, parsed by its suffix."""
    # The suffix decides, not the content: a broken file should be called broken, not taken for another kind.
    kind = next((suffix for suffix in SUFFIXES if uri.removesuffix(".gz").lower().endswith(suffix)), "")
    if not kind:
        raise ConfigError(f"its name must end with {', '.join(SUFFIXES)} (or one of these and .gz)")
    with open_text(uri) as text:
        if kind in (".csv", ".tsv"):
            yield from _parse_csv(text, "\t" if kind == ".tsv" else ",")
        elif kind == ".json":
            yield from _parse_json(text)
        elif kind == ".txt":
            yield from map(_parse_line, filter(str.strip, text))
        else:
            yield from map(_parse_json_line, filter(str.strip, text))


def _parse_csv(text: TextIO, delimiter: str) -> Iterator[Record]:
    rows = csv.reader(text, delimiter=delimiter)
    names = [name.strip().lower() for name in next(rows, [])]
    # Not a for loop: the reader can go on after an error, while a for loop would end.
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRecord(f"line {rows.line_num}: {error}")
            continue
        if len(row) > len(names):
            yield BadRecord(f"line {rows.line_num}: {len(row)} fields, not {len(names)}")
        elif row:
            yield dict(zip(names, row, strict=False))


def _parse_json(text: TextIO) -> Iterator[Record]:
    try:
        values = json.load(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"it is not JSON ({error})") from None
    if not isinstance(values, list):
        raise ConfigError(f"its JSON is not a list of objects but {type(values).__name__}")
    return map(_parse_object, values)


def _parse_json_line(line: str) -> Record:
    try:
        return _parse_object(json.loads(line))
    except (ValueError, RecursionError):
        return BadRecord(f"no JSON: {line.strip()[:60]!r}")


def _parse_object(value: Any) -> Record:
    if not isinstance(value, dict):
        return BadRecord(f"no object: {str(value)[:60]!r}")
    return {str(name).strip().lower(): field for name, field in value.items()}


def _parse_line(line: str) -> Record:
    """Parse a line of text: a link, or a link, a tab and its caption."""
    link, _, caption = line.strip().partition("\t")
    return {"link": link, "caption": caption}


def _first_value(record: Mapping[str, Any], names: Iterable[str]) -> str:
    """Return the first of these columns that is not empty, in one line."""
    values = (record.get(name) for name in names)
    return next((text for value in values if value is not None and (text := " ".join(str(value).split()))), "")


def _describe_columns(records: Sequence[Record]) -> str:
    # Most files without links only name their column differently, so the message lists the columns.
    known = list(dict.fromkeys(name for record in records if not isinstance(record, BadRecord) for name in record))
    if set(known) & set(LINK_COLUMNS):
        return f" in its first {len(records)} records"
    found = f"its columns are {', '.join(known)[:200]}" if known else "no line is a record"
    return f": {found}; a column must be named {', '.join(LINK_COLUMNS[:-1])} or {LINK_COLUMNS[-1]}"
