"""Atomic output: a folder that gets its name, or an S3 prefix that gets its manifest, only once it is complete."""

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
    """Give a store to write to; it becomes `uri`, with the manifest in it, if the block ends without an error.

    A local folder is filled under another name and renamed. S3 cannot rename, so a marker object says that files are
    still missing; it is deleted once the manifest is written. The next export to the same place clears what a killed
    one left.

    Raises:
        ConfigError: The target exists and is not empty.
        StoreError: The target cannot be written.
    """
    target = Store(uri)
    try:
        with _on_s3(target) if target.is_s3 else _local(Path(target.root)) as output:
            yield output
            # The manifest is written before the context below is left, which is what publishes the output: a folder
            # with its final name, or a prefix without marker, therefore always has one.
            output.write(json.dumps(manifest, indent=1, sort_keys=True).encode(), EXPORT_MANIFEST)
    except OSError as error:
        raise StoreError(f"export to {uri} failed: {error.strerror or error}") from None


@contextmanager
def open_output_file(output: Store, *parts: str) -> Iterator[NativeFile]:
    """Open a file for writing; its folders are created."""
    path = output.path(*parts)
    if not output.is_s3:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    with output.filesystem.open_output_stream(path) as stream:
        yield stream


@contextmanager
def _local(folder: Path) -> Iterator[Store]:
    # An export never mixes its files with those that lie there already.
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise _target_exists(str(folder))
    # The output is filled beside the target, so that the rename stays within one file system and is atomic.
    partial = folder.with_name(f".{folder.name}.partial")
    # An export that was killed left its partial output here.
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield Store(str(partial))
        # The target may be an empty folder that the user made. Not every platform lets a rename replace one, so it is
        # removed first.
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    finally:
        # After a success the folder has its new name and there is nothing to delete; after an error, or Ctrl-C, the
        # partial output goes.
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _on_s3(target: Store) -> Iterator[Store]:
    # The marker and the clearing below treat everything under the prefix as their own, which in a whole bucket could be
    # anything.
    if not target.root.partition("/")[2]:
        raise ConfigError(f"export target {target.uri} is a whole bucket; name a prefix in it: {target.uri}/NAME")
    target.check_conditional_writes()
    # A marker is taken as the trace of an export that was killed, so what lies below may be deleted. Two exports to one
    # prefix at the same time are not told apart from that.
    if target.exists(UNFINISHED_MARKER):
        _clear(target)
    elif target.list():
        raise _target_exists(target.uri)
    # The marker is written before any file and deleted after the last one. There is no moment in which files exist
    # without marker or manifest.
    target.write(b"", UNFINISHED_MARKER)
    # No `finally` here: if the block raises, the marker stays, and tells readers and the next export that the files are
    # incomplete.
    yield target
    target.filesystem.delete_file(target.path(UNFINISHED_MARKER))


def _clear(target: Store) -> None:
    """Delete all but the marker, so that the next attempt clears up again if this one is killed here."""
    infos = target.filesystem.get_file_info(fs.FileSelector(target.root, recursive=True))
    for info in infos:
        if info.type == fs.FileType.File and info.base_name != UNFINISHED_MARKER:
            target.filesystem.delete_file(info.path)


def _target_exists(uri: str) -> ConfigError:
    return ConfigError(f"export target {uri} exists and is not empty; choose another, or delete it first")
