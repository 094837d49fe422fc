"""A new folder, or S3 prefix, that gets its name or its manifest only once it is whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyarrow import NativeFile, fs

from emoji_ldm.errors import ConfigError, StoreError
from emoji_ldm.store import Store

EXPORT_MANIFEST = ".export.json"
UNFINISHED_MARKER = ".unfinished"


@contextmanager
def atomic_output(uri: str, manifest: Mapping[str, Any]) -> Iterator[Store]:
    """Give a place to write to; it becomes `uri`, with the manifest in it, if the block ends well.

    A local folder is filled under another name and renamed. S3 cannot rename: there a marker says that the files are
    not all, until the manifest is written; what a killed export left behind it is cleared by the next one.

    Raises:
        ConfigError: Something is there already.
        StoreError: It cannot be written.
    """
    target = Store(uri)
    try:
        with _on_s3(target) if target.is_s3 else _local(Path(target.root)) as place:
            yield place
            place.write(json.dumps(manifest, indent=1, sort_keys=True).encode(), EXPORT_MANIFEST)
    except OSError as error:
        raise StoreError(f"export to {uri} failed: {error.strerror or error}") from None


@contextmanager
def open_output_file(place: Store, *parts: str) -> Iterator[NativeFile]:
    """A file to write, with the folders above it."""
    path = place.path(*parts)
    if not place.is_s3:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    with place.filesystem.open_output_stream(path) as stream:
        yield stream


@contextmanager
def _local(folder: Path) -> Iterator[Store]:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise _target_exists(str(folder))
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of an export that was killed
    try:
        partial.mkdir(parents=True)
        yield Store(str(partial))
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _on_s3(target: Store) -> Iterator[Store]:
    if not target.root.partition("/")[2]:
        raise ConfigError(f"export target {target.uri} is a whole bucket; name a prefix in it: {target.uri}/NAME")
    target.check_conditional_writes()
    if target.exists(UNFINISHED_MARKER):
        _clear(target)
    elif target.list():
        raise _target_exists(target.uri)
    target.write(b"", UNFINISHED_MARKER)
    yield target
    target.filesystem.delete_file(target.path(UNFINISHED_MARKER))


def _clear(target: Store) -> None:
    """Delete all but the marker: a second death in here must find it again."""
    infos = target.filesystem.get_file_info(fs.FileSelector(target.root, recursive=True))
    for info in infos:
        if info.type == fs.FileType.File and info.base_name != UNFINISHED_MARKER:
            target.filesystem.delete_file(info.path)


def _target_exists(uri: str) -> ConfigError:
    return ConfigError(f"export target {uri} exists and is not empty; choose another, or delete it first")
