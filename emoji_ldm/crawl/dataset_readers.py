"""Readers of other datasets: items of any supported file format, one after another, so that memory stays flat.

Supported are Hugging Face Parquet, WebDataset tars, folders with a metadata.csv (the `csv` layout of our exports) or
metadata.jsonl, and plain folders of images with `NAME.txt` captions, one per line; each local or on S3. The suffixes
of the files decide which reader is used: the first one in the order above that finds a file reads the whole source.
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

# Column names under which datasets store the same thing; the first one with a value counts.
IMAGE_SUFFIXES = ("png", "jpg", "jpeg", "webp", "gif", "avif", "bmp", "ico", "svg")
IMAGE_COLUMNS = ("image", *IMAGE_SUFFIXES)
URL_COLUMNS = ("source_url", "image_url", "url", "link")
TITLE_COLUMNS = ("title", "image_title")
CAPTION_COLUMNS = ("captions", "caption", "prompt", "text")
TAG_COLUMNS = ("tags", "tag")
METADATA_FILES = ("metadata.csv", "metadata.jsonl")
SIDECAR_SUFFIXES = ("csv", "json", "jsonl", "tsv", "txt")
ROWS_PER_BATCH = 100  # of a Parquet file: bounds the images in memory


@dataclass(frozen=True)
class DatasetItem:
    """An image and what its dataset says about it."""

    url: str  # where it originally came from, else its location
    location: str  # its place in the files: the URI of a file, with `#row` or `#sample` inside archives
    data: bytes | None  # None if the file is missing, or larger than the limit
    size: int  # bytes
    title: str
    tags: tuple[str, ...]
    captions: tuple[str, ...]
    page_url: str


@dataclass(frozen=True)
class _DatasetLocation:
    """A source: a folder of a filesystem and its files."""

    store: Store
    sizes: Mapping[str, int]  # {name: bytes}; hidden files are left out

    def url(self, name: str) -> str:
        return f"{'' if self.store.is_s3 else 'file://'}{self.store.uri}/{name}"

    def read(self, name: str, max_bytes: int) -> bytes | None:
        return self.store.read(name) if self.sizes.get(name, max_bytes + 1) <= max_bytes else None


Reader = Callable[[_DatasetLocation, str, int], Iterator[DatasetItem]]


def read_dataset_items(source: str, *, max_bytes: int) -> Iterator[DatasetItem]:
    """Read the images of a folder, file or s3:// prefix, in the same order each time.

    Raises:
        ConfigError: There is no such source, it holds no images, or one of its files cannot be read.
    """
    # The order decides: a folder with Parquet files is read as Parquet even if it also holds images, for example a
    # preview beside the data.
    location = _open(source)
    readers: tuple[tuple[Callable[[str], bool], Reader], ...] = (
        (lambda name: name.endswith(".parquet"), _read_parquet),
        (lambda name: name.endswith(".tar"), _read_tar),
        (lambda name: PurePosixPath(name).name in METADATA_FILES, _read_metadata),
        (lambda name: _suffix(name) in IMAGE_SUFFIXES, _read_image),
    )
    for matches, read in readers:
        if names := sorted(filter(matches, location.sizes)):
            _report_unread(location, names)
            return (item for name in names for item in _read_or_config_error(read, location, name, max_bytes))
    # Nothing matched. The endings that were found usually tell the user what is wrong.
    endings = ", ".join(sorted({_suffix(name) or "none" for name in location.sizes})) or "no files"
    hint = "; URLs are crawled: emoji-ldm crawl crawl.source=records 'crawl.files=[...]'"
    raise ConfigError(
        f"import: {source} holds no images, Parquet, tar, metadata.csv or metadata.jsonl (file endings: {endings})"
        f"{hint if {'json', 'jsonl', 'txt', 'csv'} & set(endings.split(', ')) else ''}"
    )


def _open(source: str) -> _DatasetLocation:
    store = Store(source)
    info = store.filesystem.get_file_info(store.root)
    if info.type == fs.FileType.NotFound:
        raise ConfigError(f"import: there is no {source}")
    # A single file is its folder with one entry, so that readers need no second way.
    if info.type == fs.FileType.File:
        return _DatasetLocation(Store(store.uri.rpartition("/")[0]), {info.base_name: info.size})
    found = store.filesystem.get_file_info(fs.FileSelector(store.root, recursive=True))
    sizes = {entry.path[len(store.root) :].lstrip("/"): entry.size for entry in found if entry.is_file}
    return _DatasetLocation(store, {name: size for name, size in sizes.items() if not _is_hidden(name)})


def _report_unread(location: _DatasetLocation, names: list[str]) -> None:
    """Tell the user which files beside the images look like captions but are not read."""
    # Only plain folders have sidecars; a file beside a Parquet data set is none of our business.
    sidecars = {str(PurePosixPath(name).with_suffix(".txt")) for name in names if _suffix(name) in IMAGE_SUFFIXES}
    if not sidecars:
        return
    unread = sorted(name for name in location.sizes.keys() - sidecars if _suffix(name) in SIDECAR_SUFFIXES)
    if unread:
        shown = ", ".join(unread[:5]) + (f" and {len(unread) - 5} more" if len(unread) > 5 else "")
        readable = f"{', '.join(METADATA_FILES)} or NAME.txt beside NAME.png"
        print_status(f"import: not read: {shown} (captions are read from {readable})")


def _read_or_config_error(read: Reader, location: _DatasetLocation, name: str, max_bytes: int) -> Iterator[DatasetItem]:
    try:
        yield from read(location, name, max_bytes)
    except (pa.ArrowInvalid, tarfile.TarError, UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise ConfigError(f"import: {location.url(name)} cannot be read: {' '.join(str(error).split())}") from None


def _read_parquet(location: _DatasetLocation, name: str, max_bytes: int) -> Iterator[DatasetItem]:
    with location.store.filesystem.open_input_file(location.store.path(name)) as stream:
        # Random access is needed for Parquet, whose metadata is at the end of the file.
        file, number = pq.ParquetFile(stream), 0
        schema = file.schema_arrow
        column = next(
            (column for column in IMAGE_COLUMNS if column in schema.names and _is_binary(schema.field(column))), ""
        )
        if not column:
            columns = ", ".join(f"{field.name} {field.type}" for field in schema)
            raise ConfigError(f"import: {location.url(name)} has no column `image` of bytes (columns: {columns})")
        for batch in file.iter_batches(batch_size=ROWS_PER_BATCH):
            for row in batch.to_pylist():
                image = row[column]
                data = image.get("bytes") if isinstance(image, dict) else image
                yield _item(row, f"{location.url(name)}#{number}", data, max_bytes)
                number += 1


def _is_binary(field: pa.Field) -> bool:
    """Whether a column holds files: bytes, or the struct<bytes, path> of Hugging Face."""
    kind = field.type
    if pa.types.is_struct(kind):
        return any(inner.name == "bytes" and _is_binary(inner) for inner in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _read_tar(location: _DatasetLocation, name: str, max_bytes: int) -> Iterator[DatasetItem]:
    """Read a WebDataset: consecutive files whose names are equal up to the first dot form one sample."""
    with location.store.filesystem.open_input_stream(location.store.path(name)) as stream:
        key, sample = "", dict[str, tuple[int, bytes | None]]()  # the sample being read, {suffix: (size, content)}
        # "r|*" reads the archive as a stream, so that one of 100 GB on S3 is never downloaded as a whole.
        with tarfile.open(fileobj=stream, mode="r|*") as tar:
            for member in tar:
                folder, _, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                if not member.isfile() or not suffix:
                    continue
                if (member_key := f"{folder}/{stem}") != key:
                    yield from _read_sample(sample, f"{location.url(name)}#{key.lstrip('/')}", max_bytes)
                    key, sample = member_key, {}
                # A member above the limit is skipped, but its size is kept: it becomes an outcome "too large".
                file = tar.extractfile(member) if member.size <= max_bytes else None
                sample[suffix.lower()] = (member.size, file.read() if file else None)
        yield from _read_sample(sample, f"{location.url(name)}#{key.lstrip('/')}", max_bytes)


def _read_sample(sample: Mapping[str, tuple[int, bytes | None]], url: str, max_bytes: int) -> Iterator[DatasetItem]:
    """Yield the item of a sample {suffix: (size, content)}, if it holds an image."""
    suffix = next((suffix for suffix in IMAGE_SUFFIXES if suffix in sample), None)
    if suffix is None:
        return
    size, data = sample[suffix]
    values = json.loads(sample["json"][1] or b"{}") if "json" in sample else {}
    row = values if isinstance(values, dict) else {}
    # Captions of the JSON win over those of the text file, which often repeats one of them.
    if "txt" in sample and not any(row.get(name) for name in CAPTION_COLUMNS):
        row = {**row, "captions": (sample["txt"][1] or b"").decode().splitlines()}
    yield _item(row, url, data, max_bytes, size)


def _read_metadata(location: _DatasetLocation, name: str, max_bytes: int) -> Iterator[DatasetItem]:
    """Read a metadata.csv or metadata.jsonl, whose images lie beside it or in a folder `images`."""
    folder, text = PurePosixPath(name).parent, location.store.read(name).decode("utf-8-sig")
    for row in _json_lines(text) if name.endswith(".jsonl") else csv.DictReader(io.StringIO(text, newline="")):
        if "file_name" not in row:
            columns = ", ".join(map(str, row))
            raise ConfigError(f"import: {location.url(name)} has no column file_name (columns: {columns})")
        candidates = [str(folder / str(row["file_name"])), str(folder / "images" / str(row["file_name"]))]
        # A missing file is reported under the first of the two places.
        found = next((file for file in candidates if file in location.sizes), candidates[0])
        yield _item(row, location.url(found), location.read(found, max_bytes), max_bytes, location.sizes.get(found, 0))


def _json_lines(text: str) -> Iterator[dict[str, Any]]:
    """Parse JSON Lines; a line that is not an object becomes a row without columns."""
    values = (json.loads(line) for line in io.StringIO(text) if line.strip())
    return (value if isinstance(value, dict) else {} for value in values)


def _read_image(location: _DatasetLocation, name: str, max_bytes: int) -> Iterator[DatasetItem]:
    """Read a plain image file: titled by its name, tagged by its folder, with the captions of its text file."""
    path = PurePosixPath(name)
    sidecar = str(path.with_suffix(".txt"))
    text = location.read(sidecar, max_bytes) if sidecar in location.sizes else None
    captions = (text or b"").decode("utf-8-sig").splitlines()
    row = {"title": path.stem.replace("_", " ").replace("-", " "), "tag": path.parent.name, "captions": captions}
    yield _item(row, location.url(name), location.read(name, max_bytes), max_bytes, location.sizes[name])


def _item(row: Mapping[str, Any], url: str, data: bytes | None, max_bytes: int, size: int | None = None) -> DatasetItem:
    # The size is given where the data was not loaded because it is too large.
    size = len(data or b"") if size is None else size
    return DatasetItem(
        url=str(_first_value(row, URL_COLUMNS) or url),
        location=url,
        data=data if size <= max_bytes else None,
        size=size,
        title=str(_first_value(row, TITLE_COLUMNS) or ""),
        tags=_texts(_first_value(row, TAG_COLUMNS)),
        captions=_texts(_first_value(row, CAPTION_COLUMNS)),
        page_url=str(row.get("page_url") or ""),
    )


def _first_value(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name)), None)


def _texts(value: Any) -> tuple[str, ...]:
    """Return the distinct non-empty texts of a list or of a text column."""
    # Lists keep their order, and repeated captions count once.
    texts = value if isinstance(value, (list, tuple)) else _parse_list(str(value or ""))
    return tuple(dict.fromkeys(text for text in (str(one or "").strip() for one in texts) if text))


def _parse_list(text: str) -> list[str]:
    """Parse a list that was written into a text column, as JSON or as Python's repr; any other text is one item."""
    for parse in (json.loads, ast.literal_eval) if text.startswith("[") else ():
        try:
            values = parse(text)
        except (ValueError, SyntaxError):
            continue
        if isinstance(values, list) and all(isinstance(one, str) for one in values):
            return values
    return [text]


def _suffix(name: str) -> str:
    return Path(name).suffix.lower().lstrip(".")


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "__")) for part in PurePosixPath(name).parts)
