"""A store: files and tables below one URI, a local folder or `s3://bucket/prefix`.

Stages know only this interface; what differs between the two kinds lies in `local_files.py` and `s3.py`. Layout:

    store.json                          {"format": 2}, written at the first use
    tables/<table>/                     Delta tables of the main line; branches/<name>-<id>/tables/<table>/ of a branch
    refs/tags, refs/branches            named points in the history (dataset/versions/refs.py)
    refs/checkpoints, checkpoints/      aliases and checkpoints (dataset/checkpoints.py)
    runs/<run>/, sets/, crawl/, keys/   files of runs, bulk jobs, the crawl and the service
"""

from __future__ import annotations

import difflib
import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pyarrow import fs

from emoji_ldm import local_files, s3
from emoji_ldm.errors import DatasetError, StoreError
from emoji_ldm.schemas import RENAMED_TABLES, TABLES

FORMAT = 2  # raise it when stored names or layouts change; format 1 had no store.json
FORMAT_FILE = "store.json"
UPLOAD_THREADS = 4  # files that `Store.upload` copies at once


@dataclass(frozen=True)
class Store:
    """Files and tables below one URI; cheap to build, picklable, the same on every machine."""

    uri: str
    branch: str | None = None  # the branch whose tables are used; None is the main line

    def __post_init__(self) -> None:
        """Make a local folder absolute, so that workers with another working directory see the same store."""
        # The dataclass is frozen, so that it can be hashed and shared between threads; during its construction, fields
        # may still be normalised this way. Tags of the main line store an empty branch name.
        object.__setattr__(self, "branch", self.branch or None)
        if not self.uri.strip():
            raise StoreError("the store is empty; give a folder or s3://bucket/prefix (store=...)")
        # A URI without a scheme is a folder, absolute or relative.
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

    # The file system is made at the first use, so that naming a store costs nothing; that of S3 opens connections.
    @cached_property
    def filesystem(self) -> fs.FileSystem:
        """The pyarrow file system that holds the store."""
        return s3.filesystem() if self.is_s3 else fs.LocalFileSystem()

    def path(self, *parts: str) -> str:
        """Path inside `filesystem` of a file or folder below the store."""
        return "/".join((self.root, *parts))

    def table_path(self, name: str) -> str:
        """Folder of a table, relative to the store."""
        return f"{self.branch_folder}/tables/{name}" if self.branch else f"tables/{name}"

    # The folder is read once, since it never changes while the branch exists and every path of a table depends on it.
    @cached_property
    def branch_folder(self) -> str:
        """Folder of the branch, relative to the store; DatasetError if there is no such branch."""
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
    def io_errors(self, act: str, *errors: type[Exception]) -> Iterator[None]:
        """Turn an OSError (and `errors`) of the block into a StoreError "cannot `act` in <uri>"."""
        expected: tuple[type[Exception], ...] = (OSError, *errors)
        try:
            yield
        except expected as error:
            raise StoreError(f"cannot {act} in {self.uri}: {error}") from None

    def exists(self, *parts: str) -> bool:
        """Whether a file exists at this path."""
        return bool(self._type(*parts) == fs.FileType.File)

    def read(self, *parts: str) -> bytes:
        """The bytes of a file; StoreError if it does not exist."""
        with (
            self.io_errors(f"read {'/'.join(parts)}"),
            self.filesystem.open_input_stream(self.path(*parts), compression=None) as stream,
        ):
            return bytes(stream.read())

    def write(self, data: bytes, *parts: str) -> None:
        """Write or replace a file; readers see the old content or the new, never a part."""
        path = self.path(*parts)
        with self.io_errors(f"write {'/'.join(parts)}"):
            if not self.is_s3:
                self._make_parent(path)
                return local_files.write_atomically(data, Path(path))
            # S3 shows an object only once its upload is complete, so a plain write is atomic there.
            with self.filesystem.open_output_stream(path, compression=None) as stream:
                stream.write(data)
        return None

    def write_large(self, data: bytes | memoryview, *parts: str) -> None:
        """Write a large file without a second copy in memory; on S3 as a parallel multipart upload.

        On a local folder the write is not atomic: the caller publishes the file by another one, such as a manifest.
        """
        if self.is_s3:
            return s3.put_parts(memoryview(data), self.path(*parts))
        path = self.path(*parts)
        with self.io_errors(f"write {'/'.join(parts)}"):
            self._make_parent(path)
            Path(path).write_bytes(data)
        return None

    def write_if_absent(self, data: bytes, *parts: str) -> bool:
        """Write a file unless one exists, atomically (on S3 by a conditional PUT); False if one existed."""
        # Commits, tags and locks rest on this method: of any number of writers of one path, at most one gets True. A
        # hard link and a conditional PUT are the operations that guarantee this without a server of our own.
        if self.is_s3:
            return s3.put_if_absent(data, self.path(*parts))
        with self.io_errors(f"write {'/'.join(parts)}"):
            return local_files.write_if_absent(data, Path(self.path(*parts)))

    def write_once(self, data: bytes, *parts: str) -> bool:
        """Write a file that has one writer; True if the file holds `data` afterwards.

        A PUT whose response was lost may have succeeded although its automatic retry is refused, and S3 may refuse both
        of two PUTs that arrive at once. A refusal therefore proves nothing, and the file that exists is compared with
        ours. The bytes must be unique to the writer where it matters who wrote them.
        """
        # A file that does not exist after a refusal is one that S3 refused to two writers at once: nobody has it yet.
        return self.write_if_absent(data, *parts) or (self.exists(*parts) and self.read(*parts) == data)

    def list(self, *parts: str, recursive: bool = False) -> list[str]:
        """Paths below a folder, relative to it, sorted; empty if the folder does not exist."""
        folder = self.path(*parts)
        selector = fs.FileSelector(folder, allow_not_found=True, recursive=recursive)
        with self.io_errors(f"list {'/'.join(parts) or 'the files'}"):
            infos = self.filesystem.get_file_info(selector)
        return sorted(info.path[len(folder) :].lstrip("/") for info in infos)

    def upload(self, local: Path, *parts: str) -> None:
        """Copy a local folder below the store, several files at once."""

        def send(path: Path) -> None:
            self.write_large(local_files.memory_map(path), *parts, path.relative_to(local).as_posix())

        with ThreadPoolExecutor(UPLOAD_THREADS, "upload") as pool:
            list(pool.map(send, local_files.files_below(local)))

    def download(self, local: Path, *parts: str) -> None:
        """Copy a folder of the store to a local one."""
        # Listings contain folders too, which cannot be read; `exists` is true of files only.
        for name in self.list(*parts, recursive=True):
            if self.exists(*parts, name):
                target = local / name
                target.parent.mkdir(parents=True, exist_ok=True)
                # Processes share the cache, so a reader may open the target at any moment.
                local_files.write_atomically(self.read(*parts, name), target)

    def delete(self, *parts: str) -> None:
        """Delete a folder and all in it; nothing happens if it does not exist."""
        with self.io_errors(f"delete {'/'.join(parts)}"):
            if self._type(*parts) == fs.FileType.Directory:
                # An S3 folder is only a common prefix of keys. It vanishes with its last object, perhaps before its
                # turn.
                with suppress(FileNotFoundError):
                    self.filesystem.delete_dir(self.path(*parts))

    def remove(self, *parts: str) -> None:
        """Delete one file; nothing happens if it does not exist."""
        with self.io_errors(f"delete {'/'.join(parts)}"):
            if self.exists(*parts):
                self.filesystem.delete_file(self.path(*parts))

    def check_writable(self) -> None:
        """Check within seconds that jobs can write to the store; a new store is marked with its format.

        Raises:
            StoreError: The store cannot be reached or written, its conditional writes do not keep writers apart, or
                it has another format.
            DatasetError: There is no such branch.
        """
        # The write comes first: it fails at once for a missing bucket or permission, whatever the store holds.
        self.check_conditional_writes()
        self.mark_format()
        if self.branch:
            # The value is not needed here; reading it raises the error for an unknown branch.
            _ = self.branch_folder

    def check_readable(self) -> None:
        """Check within seconds that there is a store to read; nothing is written.

        Raises:
            StoreError: The store cannot be reached, does not exist, or has another format.
            DatasetError: There is no such branch.
        """
        with self.io_errors("look for tables"):
            exists = s3.prefix_exists(self.root) if self.is_s3 else Path(self.root).is_dir()
        if not exists:
            raise StoreError(f"there is no store {self.uri}; name another with store=..., or fill it (emoji-ldm crawl)")
        self.check_format()
        if self.branch:
            _ = self.branch_folder

    def check_conditional_writes(self) -> None:
        """StoreError unless of two `write_if_absent` of one file the second fails: commits depend on it.

        Some S3 servers accept the condition and ignore it, so a probe file is written and deleted.
        """
        name = f".write-check-{uuid.uuid4().hex}"
        if self.is_s3:
            s3.check_conditional_writes(self.root, name)
        else:
            local_files.check_conditional_writes(Path(self.root), name)

    def check_format(self) -> None:
        """StoreError if another version of this library wrote the store in a layout that this one does not read."""
        found = self._format()
        # Another process may be creating the store at this moment. It writes store.json before the first table. So if a
        # table exists and store.json, read once more after that, still does not, the store is of format 1.
        if found is None and self._has_tables() and (found := self._format()) is None:
            raise StoreError(
                f"store {self.uri} was written by an earlier version of emoji-ldm, with other table names; choose "
                "another with store=..., and bring the images along: `emoji-ldm dataset export hf DIR` by that "
                "version, `emoji-ldm dataset import DIR` by this one"
            )
        if found not in (None, FORMAT):
            raise StoreError(
                f"store {self.uri} has format {found}, this version of emoji-ldm reads format {FORMAT}; use the "
                "version that wrote it, or choose another store with store=..."
            )

    def mark_format(self) -> None:
        """Write `store.json` if the store is new; StoreError if it has another format (see `check_format`)."""
        self.check_format()
        if not self.exists(FORMAT_FILE):
            self.write_if_absent(json.dumps({"format": FORMAT}).encode(), FORMAT_FILE)

    def _format(self) -> object:
        return json.loads(self.read(FORMAT_FILE)).get("format") if self.exists(FORMAT_FILE) else None

    # A folder without a log entry is not a table yet. Only names of this library count, since the folder `tables` may
    # hold tables of others.
    def _has_tables(self) -> bool:
        """Whether any table has a commit; workers may have written data files before the first one."""
        names = {*TABLES, *RENAMED_TABLES}.intersection(self.list("tables"))
        return any(self.list("tables", name, "_delta_log") for name in sorted(names))

    def _make_parent(self, path: str) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)

    # An S3 key such as `a/b` can be an object and a prefix of others at once, so callers ask for the kind and not for
    # mere existence.
    def _type(self, *parts: str) -> fs.FileType:
        with self.io_errors(f"find {'/'.join(parts)}"):
            return self.filesystem.get_file_info(self.path(*parts)).type
