"""Captions that people wrote: rows of the engine `human`, which no other engine replaces.

They come from a CSV file (`caption.overrides`), or one by one through the API of the service. Either way they are a new
version of the table; nothing is edited in place.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from emoji_ldm.caption.batching import caption_id
from emoji_ldm.caption.sentence_format import parse_sentence
from emoji_ldm.config import key_of
from emoji_ldm.dataset.caption_selection import HUMAN
from emoji_ldm.dataset.lineage import Lineage
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import ConfigError
from emoji_ldm.schemas import CAPTION_ATTRIBUTES, CAPTIONS, IMAGES
from emoji_ldm.store import Store

IMAGE_COLUMNS = ("image_id", "source_url")


def commit_manual_captions(path: str | None, store: Store, lineage: Lineage) -> int:
    """Commit the captions of a CSV file that are new or changed; returns their number, 0 without a path.

    Raises:
        ConfigError: See `read_manual_captions`.
    """
    if not path:
        return 0
    table = Table(store, CAPTIONS)
    # Only captions that are new or differ are committed, so running a job again with an unchanged file adds no version.
    captions = read_manual_captions(path, Table(store, IMAGES).read(["image_id", "source_url"]))
    known = table.read(["image_id", "caption"], filter=pc.field("engine_key") == HUMAN)
    existing = dict(zip(known["image_id"].to_pylist(), known["caption"].to_pylist(), strict=True))
    fresh = {image_id: text for image_id, text in sorted(captions.items()) if existing.get(image_id) != text}
    if fresh:
        _commit_rows(table, fresh, lineage)
    return len(fresh)


def commit_manual_caption(table: Table, image_id: str, caption: str, lineage: Lineage) -> None:
    """Commit one caption, which replaces what people wrote of the image before; "" takes that back.

    With `table.expected_version` set, raises DatasetError if anybody else changed rows since.
    """
    if caption:
        _commit_rows(table, {image_id: caption}, lineage)
        return
    name = f"caption:{HUMAN}:{key_of(table.version, image_id)}"
    keys = [caption_id(image_id, HUMAN, 0)]
    table.upsert([], keys, app_id=name, metadata=lineage.metadata({f"{HUMAN} withdrawn": 1}, name))


def _commit_rows(table: Table, captions: Mapping[str, str], lineage: Lineage) -> None:
    fresh = manual_caption_rows(captions)
    keys = fresh["caption_id"].to_pylist()
    # The name of a shard that is done is never committed again. The version is part of it, so that a caption that is
    # changed and later changed back is committed all the same.
    name = f"caption:{HUMAN}:{key_of(table.version, keys, fresh['caption'].to_pylist())}"
    # The key of a caption by a person depends on its image alone, so the new text replaces the old one in the same
    # version.
    metadata = lineage.metadata({HUMAN: len(keys)}, name)
    table.upsert([table.write_file(fresh)], keys, app_id=name, metadata=metadata)


def read_manual_captions(path: str, images: pa.Table) -> dict[str, str]:
    """{image_id: caption} of a CSV file with the columns caption and image_id or source_url (if both, the id counts).

    Args:
        path: The file, UTF-8; other columns are ignored.
        images: image_id and source_url of the data set.

    Raises:
        ConfigError: The file cannot be read, or a line is wrong; the message names its number.
    """
    ids = set(images["image_id"].to_pylist())
    # One URL may have given several images over time, and then it does not say which of them is meant.
    by_url: dict[str, set[str]] = {}
    for image_id, url in zip(images["image_id"].to_pylist(), images["source_url"].to_pylist(), strict=True):
        by_url.setdefault(url, set()).add(image_id)
    found, lines, unknown = dict[str, str](), dict[str, int](), list[tuple[int, str]]()
    for line, name, caption in _lines(path):
        matches = {name} if name in ids else by_url.get(name, set())
        if not matches:
            unknown.append((line, name))
        elif len(matches) > 1:
            raise _line_error(path, line, f"{name} is the source of {len(matches)} images; give the image_id instead")
        else:
            image_id = next(iter(matches))
            if image_id in found:
                raise _line_error(
                    path, line, f"{name} has a caption in line {lines[image_id]} already; keep one of them"
                )
            found[image_id], lines[image_id] = caption, line
    # All unknown images are counted before the error, since a file for another data set has many and a typing error has
    # one.
    if unknown:
        line, name = unknown[0]
        raise _line_error(path, line, f"{len(unknown)} images are not in the data set, the first is {name!r}; "
                     "see the ids with: emoji-ldm dataset show images")  # fmt: skip
    return found


def manual_caption_rows(captions: Mapping[str, str]) -> pa.Table:
    """Rows of `captions` for {image_id: caption}; the attributes are filled where a sentence has the usual form."""
    return pa.Table.from_pylist([_row(image_id, text) for image_id, text in captions.items()], schema=CAPTIONS.schema)


def _row(image_id: str, text: str) -> dict[str, object]:
    attributes = parse_sentence(text)
    return {
        "caption_id": caption_id(image_id, HUMAN, 0), "image_id": image_id, "caption": text, "engine": HUMAN,
        "engine_key": HUMAN, "number": 0, "attempts": 0, "status": "ok", "reason": "",
        **{name: attributes.get(name, "") for name in CAPTION_ATTRIBUTES},
    }  # fmt: skip


def _lines(path: str) -> Iterator[tuple[int, str, str]]:
    """(line number, image id or URL, caption) per row."""
    try:
        # utf-8-sig also reads files without a byte order mark; spreadsheet programs write one.
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, strict=True)
            columns = table.fieldnames or []
            if "caption" not in columns or not set(IMAGE_COLUMNS).intersection(columns):
                raise _line_error(path, 1, f"columns are {', '.join(columns) or 'missing'}; "
                             "needed are caption, and image_id or source_url")  # fmt: skip
            for row in table:
                # csv puts surplus fields under the key None and fills missing ones with None.
                if None in row or None in row.values():
                    raise _line_error(
                        path, table.line_num, f"not {len(columns)} fields; quote a caption that has commas"
                    )
                name = next((row[column].strip() for column in IMAGE_COLUMNS if row.get(column, "").strip()), "")
                caption = " ".join(row["caption"].split())
                if not name or not caption:
                    lacks = "caption" if name else "image"
                    raise _line_error(path, table.line_num, f"names no {lacks}; fill it in or delete the line")
                yield table.line_num, name, caption
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"caption.overrides={path!r} cannot be read as a UTF-8 CSV file: {error}") from None


def _line_error(path: str, line: int, what: str) -> ConfigError:
    return ConfigError(f"caption.overrides={path!r}, line {line}: {what}")
