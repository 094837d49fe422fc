"""A store is one URI: a local folder or `s3://bucket/prefix` (its server is s3.py's matter)."""

from __future__ import annotations

import difflib
import json
import os
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from mmap import ACCESS_READ, mmap
from pathlib import Path

from pyarrow import fs

from emoji_ldm import s3
from emoji_ldm.errors import DatasetError, StoreError

UPLOAD_THREADS = 4  # files that `Store.upload` copies at once


@dataclass(frozen=True)
class Store:
    """Files and tables below one URI; cheap to build, picklable, the same on every machine."""

    uri: str
    branch: str | None = None  # whose tables are meant; None is the main line

    def __post_init__(self) -> None:
        """Make a local folder absolute, so that workers with another directory see the same store."""
        object.__setattr__(self, "branch", self.branch or None)  # refs written before it could be null hold ""
        if not self.uri.strip():
            raise StoreError("the store is empty; give a folder or s3://bucket/prefix (store=...)")
        scheme, separator, rest = self.uri.partition("://")
        if not separator:
            object.__setattr__(self, "uri", str(Path(self.uri).expanduser().absolute()))
        elif scheme != "s3" or not rest.strip("/"):
            raise StoreError(f"store {self.uri!r} is neither a folder nor s3://bucket/prefix")
        else:
            object.__setattr__(self, "uri", self.uri.rstrip("/"))

    @property
    def is_s3(self) -> bool:
        """True for `s3://` stores."""
        return self.uri.startswith("s3://")

    @property
    def root(self) -> str:
        """Path of the store inside `filesystem`: an absolute folder or `bucket/prefix`."""
        return self.uri.removeprefix("s3://")

    @cached_property
    def filesystem(self) -> fs.FileSystem:
        """The pyarrow filesystem that holds the store."""
        return s3.filesystem() if self.is_s3 else fs.LocalFileSystem()

    def path(self, *parts: str) -> str:
        """Path inside `filesystem` of something below the store."""
        return "/".join((self.root, *parts))

    def table_path(self, name: str) -> str:
        """Folder of a table below the store."""
        return f"{self.branch_folder}/tables/{name}" if self.branch else f"tables/{name}"

    @cached_property
    def branch_folder(self) -> str:
        """Folder of the branch below the store; DatasetError if there is no such branch."""
        known = [name.removesuffix(".json") for name in self.list("refs", "branches")]
        if self.branch not in known:
            close = difflib.get_close_matches(str(self.branch), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"branches: {', '.join(known) or 'none'}"
            raise DatasetError(f"there is no branch {self.branch!r} in {self.uri} ({hint})")
        return str(json.loads(self.read("refs", "branches", f"{self.branch}.json"))["folder"])

    def table_uri(self, name: str) -> str:
        """URI of a Delta table, as delta-rs takes it."""
        return f"{self.uri}/{self.table_path(name)}"

    def storage_options(self) -> dict[str, str]:
        """Options for delta-rs."""
        return s3.storage_options() if self.is_s3 else {}

    @contextmanager
    def reaching(self, act: str, *errors: type[Exception]) -> Iterator[None]:
        """Turn an OSError (and `errors`) of the block into a StoreError: cannot `act`."""
        expected: tuple[type[Exception], ...] = (OSError, *errors)
        try:
            yield
        except expected as error:
            raise StoreError(f"cannot {act} in {self.uri}: {error}") from None

    def exists(self, *parts: str) -> bool:
        """Whether a file lies at this path."""
        return bool(self._type(*parts) == fs.FileType.File)

    def read(self, *parts: str) -> bytes:
        """The bytes of a file; StoreError if it is not there."""
        with (
            self.reaching(f"read {'/'.join(parts)}"),
            self.filesystem.open_input_stream(self.path(*parts)) as stream,
        ):
            return bytes(stream.read())

    def write(self, data: bytes, *parts: str) -> None:
        """Write a file whole, replacing what was there; readers see the old one or the new one, never a part."""
        path = self.path(*parts)
        with self.reaching(f"write {'/'.join(parts)}"):
            self._make_parent(path)
            partial = path if self.is_s3 else str(Path(path).with_name(f".{uuid.uuid4().hex}.tmp"))
            with self.filesystem.open_output_stream(partial) as stream:
                stream.write(data)
            if partial != path:
                Path(partial).replace(path)

    def put(self, data: bytes | memoryview, *parts: str) -> None:
        """Write a large file whole; to S3 in parts, several at once, and without a copy of all of it."""
        if self.is_s3:
            return s3.put_parts(memoryview(data), self.path(*parts))
        path = Path(self.path(*parts))
        with self.reaching(f"write {'/'.join(parts)}"):
            self._make_parent(str(path))
            path.write_bytes(data)
        return None

    def write_once(self, data: bytes, *parts: str) -> bool:
        """Write a file only if none is there, atomically; False if one was (a conditional PUT on S3)."""
        if self.is_s3:
            return s3.put_if_absent(data, self.path(*parts))
        with self.reaching(f"write {'/'.join(parts)}"):
            return self._link_once(data, Path(self.path(*parts)))

    def list(self, *parts: str, recursive: bool = False) -> list[str]:
        """Paths below a folder, relative to it, sorted; empty if the folder is not there."""
        folder = self.path(*parts)
        selector = fs.FileSelector(folder, allow_not_found=True, recursive=recursive)
        with self.reaching(f"list {'/'.join(parts) or 'the files'}"):
            infos = self.filesystem.get_file_info(selector)
        return sorted(info.path[len(folder) :].lstrip("/") for info in infos)

    def upload(self, local: Path, *parts: str) -> None:
        """Copy a local folder below the store, several files at once."""

        def send(path: Path) -> None:
            self.put(_memory_mapped(path), *parts, path.relative_to(local).as_posix())

        with ThreadPoolExecutor(UPLOAD_THREADS, "upload") as pool:
            list(pool.map(send, _files(local)))

    def download(self, local: Path, *parts: str) -> None:
        """Copy a folder of the store to a local one."""
        for name in self.list(*parts, recursive=True):
            if self.exists(*parts, name):
                target = local / name
                target.parent.mkdir(parents=True, exist_ok=True)
                part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")  # others may read the target now
                part.write_bytes(self.read(*parts, name))
                part.replace(target)

    def delete(self, *parts: str) -> None:
        """Delete a folder of the store with all in it; nothing happens if it is not there."""
        with self.reaching(f"delete {'/'.join(parts)}"):
            if self._type(*parts) == fs.FileType.Directory:
                with suppress(FileNotFoundError):  # on S3 a folder may go with its last file, before its own turn
                    self.filesystem.delete_dir(self.path(*parts))

    def remove(self, *parts: str) -> None:
        """Delete one file of the store; nothing happens if it is not there."""
        with self.reaching(f"delete {'/'.join(parts)}"):
            if self.exists(*parts):
                self.filesystem.delete_file(self.path(*parts))

    def check(self) -> None:
        """Raise StoreError, within seconds, if the store cannot be reached or written, or lets writers overtake.

        Two writers of one version are kept apart by a write that fails if the file is there: it is tried here, as
        some S3 servers take the condition and ignore it. DatasetError if the branch is not there.
        """
        name = f".write-check-{uuid.uuid4().hex}"
        if self.is_s3:
            s3.check_writable(self.root, name)
        else:
            self._check_folder(Path(self.path(name)))
        if self.branch:
            _ = self.branch_folder

    def check_reading(self) -> None:
        """Raise StoreError, within seconds, if there is no store to read; nothing is written or made.

        DatasetError if the branch is not there.
        """
        with self.reaching("look for tables"):
            there = s3.prefix_exists(self.root) if self.is_s3 else Path(self.root).is_dir()
        if not there:
            raise StoreError(f"there is no store {self.uri}; name another with store=..., or fill it (emoji-ldm crawl)")
        if self.branch:
            _ = self.branch_folder

    def _check_folder(self, path: Path) -> None:
        try:
            held = self._link_once(b"1", path) and not self._link_once(b"2", path)
            path.unlink()
        except OSError as error:
            raise StoreError(
                f"store {self.root} is not writable ({error.strerror}); choose another with store=..."
            ) from None
        if not held:
            raise StoreError(
                f"store {self.root} does not keep writers apart; choose another file system with store=..."
            )

    def _link_once(self, data: bytes, path: Path) -> bool:
        """A whole file under its name, or none: it is written beside and linked, which fails if the name is taken."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            temporary.write_bytes(data)  # tempfile's would be for its owner's eyes alone
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def _make_parent(self, path: str) -> None:
        if not self.is_s3:
            Path(path).parent.mkdir(parents=True, exist_ok=True)

    def _type(self, *parts: str) -> fs.FileType:
        with self.reaching(f"find {'/'.join(parts)}"):
            return self.filesystem.get_file_info(self.path(*parts)).type


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _memory_mapped(path: Path) -> bytes | memoryview:
    """A file's bytes, read from the disk when they are needed."""
    if not path.stat().st_size:
        return b""
    with path.open("rb") as stream:
        return memoryview(mmap(stream.fileno(), 0, access=ACCESS_READ))
