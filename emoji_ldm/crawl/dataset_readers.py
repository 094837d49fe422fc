"""Pictures of other data sets, whatever files they come in, one after another: memory stays flat.

Hugging Face Parquet, WebDataset tars, folders with a metadata.csv (the reference layout) or metadata.jsonl, and plain
folders with `NAME.txt` captions, one per line, local or on S3. What a folder holds is told by its files' endings.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from emoji_ldm.errors import ConfigError
from emoji_ldm.progress import print_status
from emoji_ldm.store import Store

IMAGE_SUFFIXES = ("png", "jpg", "jpeg", "webp", "gif", "avif", "bmp", "ico", "svg")
IMAGE_COLUMNS = ("image", *IMAGE_SUFFIXES)
URL_COLUMNS = ("source_url", "image_url", "url", "link")
TITLE_COLUMNS = ("title", "image_title")
CAPTION_COLUMNS = ("captions", "caption", "prompt", "text")
TAG_COLUMNS = ("tags", "tag")
METADATA_FILES = ("metadata.csv", "metadata.jsonl")
SIDECAR_SUFFIXES = ("csv", "json", "jsonl", "tsv", "txt")


@dataclass(frozen=True)
class DatasetItem:
    """A picture and what its data set says of it."""

    url: str  # where it came from first, else its place in the files
    place: str
    data: bytes | None  # None if the file is missing, or larger than the limit
    size: int  # bytes
    title: str
    tags: tuple[str, ...]
    captions: tuple[str, ...]
    page_url: str


def read_dataset_items(source: str, *, max_bytes: int) -> Iterator[DatasetItem]:
    """The pictures of a folder, file or s3://... prefix, in an order that is the same each time.

    Raises:
        ConfigError: There is no such source, it holds no pictures, or a file of it cannot be read.
    """
    place = _open(source)
    readers: tuple[tuple[Callable[[str], bool], Callable[[_DatasetLocation, str, int], Iterator[DatasetItem]]], ...] = (
        (lambda name: name.endswith(".parquet"), _parquet),
        (lambda name: name.endswith(".tar"), _tar),
        (lambda name: PurePosixPath(name).name in METADATA_FILES, _table),
        (lambda name: _ending(name) in IMAGE_SUFFIXES, _file),
    )
    for wanted, read in readers:
        if names := sorted(filter(wanted, place.sizes)):
            _report_unread(place, names)
            return (item for name in names for item in _read_or_config_error(read, place, name, max_bytes))
    endings = ", ".join(sorted({_ending(name) or "none" for name in place.sizes})) or "no files"
    hint = "; addresses are crawled: emoji-ldm crawl crawl.source=records 'crawl.files=[...]'"
    raise ConfigError(
        f"import: {source} holds no pictures, Parquet, tar, metadata.csv or metadata.jsonl (endings there: {endings})"
        f"{hint if {'json', 'jsonl', 'txt', 'csv'} & set(endings.split(', ')) else ''}"
    )


def _report_unread(place: _DatasetLocation, names: list[str]) -> None:
    """Say which files beside pictures look like captions but are none that are read."""
    beside = {str(PurePosixPath(name).with_suffix(".txt")) for name in names if _ending(name) in IMAGE_SUFFIXES}
    unread = sorted(name for name in place.sizes.keys() - beside if _ending(name) in SIDECAR_SUFFIXES) if beside else []
    if unread:
        several = ", ".join(unread[:5]) + (f" and {len(unread) - 5} more" if len(unread) > 5 else "")
        print_status(
            f"import: not read: {several} (captions are read from {', '.join(METADATA_FILES)} or NAME.txt beside NAME.png)"
        )


@dataclass(frozen=True)
class _DatasetLocation:
    """A source: a folder of a filesystem and its files."""

    store: Store
    sizes: Mapping[str, int]  # {name: bytes}; hidden files are left out

    def url(self, name: str) -> str:
        return f"{'' if self.store.is_s3 else 'file://'}{self.store.uri}/{name}"

    def read(self, name: str, max_bytes: int) -> bytes | None:
        return self.store.read(name) if self.sizes.get(name, max_bytes + 1) <= max_bytes else None


def _open(source: str) -> _DatasetLocation:
    store = Store(source)
    info = store.filesystem.get_file_info(store.root)
    if info.type == fs.FileType.NotFound:
        raise ConfigError(f"import: there is no {source}")
    if info.type == fs.FileType.File:
        return _DatasetLocation(Store(store.uri.rpartition("/")[0]), {info.base_name: info.size})
    found = store.filesystem.get_file_info(fs.FileSelector(store.root, recursive=True))
    sizes = {entry.path[len(store.root) :].lstrip("/"): entry.size for entry in found if entry.is_file}
    return _DatasetLocation(store, {name: size for name, size in sizes.items() if not _hidden(name)})


def _read_or_config_error(read: Callable[[_DatasetLocation, str, int], Iterator[DatasetItem]], place: _DatasetLocation, name: str,
              max_bytes: int) -> Iterator[DatasetItem]:  # fmt: skip
    try:
        yield from read(place, name, max_bytes)
    except (pa.ArrowInvalid, tarfile.TarError, UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise ConfigError(f"import: {place.url(name)} cannot be read: {' '.join(str(error).split())}") from None


def _parquet(place: _DatasetLocation, name: str, max_bytes: int) -> Iterator[DatasetItem]:
    with place.store.filesystem.open_input_file(place.store.path(name)) as stream:
        file, number = pq.ParquetFile(stream), 0
        schema = file.schema_arrow
        column = next(
            (column for column in IMAGE_COLUMNS if column in schema.names and _binary(schema.field(column))), ""
        )
        if not column:
            columns = ", ".join(f"{field.name} {field.type}" for field in schema)
            raise ConfigError(f"import: {place.url(name)} has no column `image` of bytes (columns: {columns})")
        for batch in file.iter_batches(batch_size=100):
            for row in batch.to_pylist():
                picture = row[column]
                data = picture.get("bytes") if isinstance(picture, dict) else picture
                yield _item(row, f"{place.url(name)}#{number}", data, max_bytes)
                number += 1


def _binary(field: pa.Field) -> bool:
    """Whether a column holds files: bytes, or the struct<bytes, path> of Hugging Face."""
    kind = field.type
    if pa.types.is_struct(kind):
        return any(inner.name == "bytes" and _binary(inner) for inner in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _tar(place: _DatasetLocation, name: str, max_bytes: int) -> Iterator[DatasetItem]:
    with place.store.filesystem.open_input_stream(place.store.path(name)) as stream:
        key, sample = "", dict[str, tuple[int, bytes | None]]()
        with tarfile.open(fileobj=stream, mode="r|*") as tar:
            for member in tar:
                folder, _, base = member.name.rpartition("/")
                stem, _, ending = base.partition(".")
                if not member.isfile() or not ending:
                    continue
                if (place_of := f"{folder}/{stem}") != key:
                    yield from _sample(sample, f"{place.url(name)}#{key.lstrip('/')}", max_bytes)
                    key, sample = place_of, {}
                file = tar.extractfile(member) if member.size <= max_bytes else None
                sample[ending.lower()] = (member.size, file.read() if file else None)
        yield from _sample(sample, f"{place.url(name)}#{key.lstrip('/')}", max_bytes)


def _sample(sample: Mapping[str, tuple[int, bytes | None]], url: str, max_bytes: int) -> Iterator[DatasetItem]:
    ending = next((ending for ending in IMAGE_SUFFIXES if ending in sample), None)
    if ending is None:
        return
    size, data = sample[ending]
    facts = json.loads(sample["json"][1] or b"{}") if "json" in sample else {}
    row = facts if isinstance(facts, dict) else {}
    if "txt" in sample and not any(row.get(name) for name in CAPTION_COLUMNS):
        row = {**row, "captions": (sample["txt"][1] or b"").decode().splitlines()}
    yield _item(row, url, data, max_bytes, size)


def _table(place: _DatasetLocation, name: str, max_bytes: int) -> Iterator[DatasetItem]:
    folder, text = PurePosixPath(name).parent, place.store.read(name).decode("utf-8-sig")
    for row in _lines(text) if name.endswith(".jsonl") else csv.DictReader(io.StringIO(text, newline="")):
        if "file_name" not in row:
            columns = ", ".join(map(str, row))
            raise ConfigError(f"import: {place.url(name)} has no column file_name (columns: {columns})")
        near = [str(folder / str(row["file_name"])), str(folder / "images" / str(row["file_name"]))]
        found = next((file for file in near if file in place.sizes), near[0])
        yield _item(row, place.url(found), place.read(found, max_bytes), max_bytes, place.sizes.get(found, 0))


def _lines(text: str) -> Iterator[dict[str, Any]]:
    """The objects of JSON Lines; what is none comes without columns."""
    found = (json.loads(line) for line in io.StringIO(text) if line.strip())
    return (row if isinstance(row, dict) else {} for row in found)


def _file(place: _DatasetLocation, name: str, max_bytes: int) -> Iterator[DatasetItem]:
    path = PurePosixPath(name)
    note = str(path.with_suffix(".txt"))
    captions = (place.read(note, max_bytes) or b"").decode("utf-8-sig").splitlines() if note in place.sizes else []
    row = {"title": path.stem.replace("_", " ").replace("-", " "), "tag": path.parent.name, "captions": captions}
    yield _item(row, place.url(name), place.read(name, max_bytes), max_bytes, place.sizes[name])


def _item(row: Mapping[str, Any], url: str, data: bytes | None, max_bytes: int, size: int | None = None) -> DatasetItem:
    size = len(data or b"") if size is None else size
    return DatasetItem(
        str(_first(row, URL_COLUMNS) or url), url, data if size <= max_bytes else None, size, str(_first(row, TITLE_COLUMNS) or ""),
        _texts(_first(row, TAG_COLUMNS)), _texts(_first(row, CAPTION_COLUMNS)), str(row.get("page_url") or ""),
    )  # fmt: skip


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name)), None)


def _texts(value: Any) -> tuple[str, ...]:
    several = value if isinstance(value, (list, tuple)) else _listed(str(value or ""))
    return tuple(dict.fromkeys(text for text in (str(one or "").strip() for one in several) if text))


def _listed(text: str) -> list[str]:
    """The texts of a list that was written into a text column, as JSON or by Python; else the text alone."""
    for read in (json.loads, ast.literal_eval) if text.startswith("[") else ():
        try:
            found = read(text)
        except (ValueError, SyntaxError):
            continue
        if isinstance(found, list) and all(isinstance(one, str) for one in found):
            return found
    return [text]


def _ending(name: str) -> str:
    return Path(name).suffix.lower().lstrip(".")


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__")) for part in PurePosixPath(name).parts)
