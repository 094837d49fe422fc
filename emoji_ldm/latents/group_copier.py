"""Filling a local copy from its tables: in the background, and at once where a sample is asked for.

Training starts as soon as the places of all tensors are known. A process that needs a sample that is not there yet
reads its row group itself; meanwhile one process of the machine copies the rest, file by file. Writing a group twice
writes the same bytes, so processes need not agree on who copies what: a byte per group, in a file that all of them have
mapped into memory, says that its values are there, and is set after they were written.

An interrupted copy is no reason to begin again with everything: its bytes are set back, as nobody knows which values
the system had written to the disk, and the copy goes on.
"""

from __future__ import annotations

import fcntl
import math
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import DatasetError, StoreError
from emoji_ldm.latents.bucketed_rows import places_in_buckets
from emoji_ldm.latents.local_arrays import FLOAT16, INT32, INT64, RowFile
from emoji_ldm.latents.row_index import READ_THREADS, GroupRef, RowIndex, open_file, read_columns
from emoji_ldm.progress import print_status
from emoji_ldm.schemas import LATENTS, TEXT_EMBEDDINGS

COMPLETE_FILE, LOCK_FILE = "complete", "copy.lock"
# Smaller sets are there within a second or two, and are copied before training starts.
MAX_BLOCKING_BYTES = 2**26
COLUMNS = {LATENTS.name: ["mean", "logvar"], TEXT_EMBEDDINGS.name: ["hidden_states"]}

Write = Callable[[int, Sequence[Any]], None]  # (row of the set, values of the columns)


def write_index(folder: Path, name: str, index: RowIndex) -> None:
    """Write an index beside the files that are filled by it."""
    for part, dtype in (("group_of", INT32), ("order", INT64), ("starts", INT64), ("row_of", INT32)):
        getattr(index, part).astype(dtype).tofile(folder / f"{name}.{part}")
    lines = (f"{one.source}\t{one.number}\t{one.path}\n" for one in index.groups)
    (folder / f"{name}.groups").write_text("".join(lines))
    (folder / f"{name}.ready").write_bytes(bytes(len(index.groups)))


class GroupCopier:
    """Copies the row groups of one table into the local files."""

    def __init__(self, folder: Path, name: str, tables: Sequence[Mapping[str, Table]], write: Write) -> None:
        """Open the index; `write` puts a row to its place."""
        self.tables, self.name, self._write = tables, name, write
        lines = (line.split("\t", 2) for line in (folder / f"{name}.groups").read_text().splitlines())
        self.groups = [GroupRef(int(source), path, int(number)) for source, number, path in lines]
        self._group_of, self._order = (RowFile(folder / f"{name}.{part}", (1,), dtype)
                                       for part, dtype in (("group_of", INT32), ("order", INT64)))  # fmt: skip
        self._row_of = RowFile(folder / f"{name}.row_of", (1,), INT32)
        self._starts = np.fromfile(folder / f"{name}.starts", INT64)
        self.ready = np.memmap(folder / f"{name}.ready", np.uint8, "r+")
        self.is_complete = False

    def forget_ready(self) -> None:
        """Copy everything anew, except for groups without a row of this set."""
        self.ready[:] = np.diff(self._starts) == 0

    def ensure(self, rows: Iterable[int]) -> None:
        """Read what is not there yet of these rows of the set."""
        if self.is_complete:
            return
        missing = [group for group in set(self._group_of[np.asarray(rows)][:, 0].tolist()) if not self.ready[group]]
        if missing:
            with ThreadPoolExecutor(READ_THREADS) as pool:
                list(pool.map(lambda group: self._copy([group]), missing))
        else:
            self.is_complete = bool(self.ready.all())

    def copy_rest(self) -> bool:
        """Copy all groups that are not there yet, file by file; False if the process ends meanwhile."""
        files = [list(part) for _, part in groupby(range(len(self.groups)), lambda group: (
            self.groups[group].source, self.groups[group].path))]  # fmt: skip
        with ThreadPoolExecutor(READ_THREADS) as pool:
            running = set[Future[None]]()
            for part in files:
                # Not all at once, since a process does not end before its threads have worked off what they were given.
                if len(running) == READ_THREADS:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for each in done:
                        each.result()
                try:
                    running.add(pool.submit(self._copy, part))
                except RuntimeError:  # of Python: from then on the process ends, and starts nothing any more
                    return False
            for each in running:
                each.result()
        self.is_complete = True
        return True

    def _copy(self, groups: Sequence[int]) -> None:
        """Copy some groups of one file."""
        missing = [group for group in groups if not self.ready[group]]
        if not missing:
            return
        ref = self.groups[missing[0]]
        table = self.tables[ref.source][self.name]
        with open_file(table, ref.path) as file:
            for group in missing:
                # One at a time: this bounds the memory by that of a group.
                values = read_columns(file, table, [self.groups[group].number], COLUMNS[self.name])
                self._write_group(group, [column.combine_chunks() for column in values.columns])

    def _write_group(self, group: int, columns: Sequence[Any]) -> None:
        first, last = self._starts[group : group + 2].tolist()
        rows, places = (part.block(first, last - first)[:, 0].tolist() for part in (self._order, self._row_of))
        for row, place in zip(rows, places, strict=True):
            self._write(row, [column[place].as_buffer() for column in columns])
        self.ready[group] = 1


class LocalFill:
    """The copying of all tables of a set."""

    def __init__(self, folder: Path, copiers: Mapping[str, GroupCopier]) -> None:
        """Take the folder of the set, and the copiers of its tables."""
        self.folder, self.copiers = folder, copiers

    def begin(self) -> None:
        """Copy small sets now, and others in a thread, unless another process does.

        Raises:
            StoreError: A store cannot be read, or the disk is full.
        """
        if sum(path.stat().st_size for path in self.folder.iterdir()) <= MAX_BLOCKING_BYTES:
            self.wait()
        elif (lock := _take_lock(self.folder, wait=False)) is not None:
            self._forget_ready()
            threading.Thread(target=self._copy_aside, args=(lock,), name="copy latents", daemon=True).start()

    def wait(self) -> None:
        """Return when all is there, having copied what nobody else did."""
        lock = _take_lock(self.folder, wait=True)
        assert lock is not None, "it waited"
        try:
            if not (self.folder / COMPLETE_FILE).exists():
                self._forget_ready()
                self._copy()
        finally:
            os.close(lock)

    def attach(self, rows: Any, name: str) -> EnsuredRows:
        """Rows of a table's tensors that are copied when they are read, if they are not there yet."""
        return EnsuredRows(rows, self.copiers[name])

    def _copy_aside(self, lock: int) -> None:
        try:
            self._copy()
        # Whoever needs a sample that is not there meets the same error, and reports it as the one of the training.
        except (DatasetError, StoreError, OSError) as error:
            print_status(f"copying the latents to {self.folder} stopped: {error}")
        finally:
            os.close(lock)

    def _copy(self) -> None:
        if all(copier.copy_rest() for copier in self.copiers.values()):
            (self.folder / COMPLETE_FILE).touch()

    def _forget_ready(self) -> None:
        # Nobody copies, so whoever did was interrupted, perhaps with the whole machine.
        for copier in self.copiers.values():
            copier.forget_ready()


class EnsuredRows(Sequence[Any]):
    """Rows of which those that are read are copied before."""

    def __init__(self, rows: Any, copier: GroupCopier) -> None:
        """Take rows of local files, and what fills them."""
        self._rows, self._copier = rows, copier

    @property
    def shape(self) -> Any:
        """That of the rows."""
        return self._rows.shape

    @property
    def dtype(self) -> Any:
        """That of the rows."""
        return self._rows.dtype

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Any) -> Any:
        """As of the rows of the local files."""
        wanted = np.atleast_1d(rows)
        self._copier.ensure(np.where(wanted < 0, wanted + len(self), wanted))
        return self._rows[rows]


def open_fill(
    folder: Path, tables: Sequence[Mapping[str, Table]], header: Mapping[str, Any], bucket: NDArray[np.int16]
) -> LocalFill | None:
    """What fills the files of a set; None if all is there.

    Args:
        folder: The set's files.
        tables: The tables of each data set, `{name: table}`.
        header: What `write_latent_files` has returned.
        bucket: `(N,)` of each image.
    """
    if (folder / COMPLETE_FILE).exists():
        return None
    writers = {LATENTS.name: _moments_writer(folder, header, bucket), TEXT_EMBEDDINGS.name: _states_writer(folder)}
    return LocalFill(folder, {name: GroupCopier(folder, name, tables, write) for name, write in writers.items()})


def _moments_writer(folder: Path, header: Mapping[str, Any], bucket: NDArray[np.int16]) -> Write:
    shapes, names = header["shapes"], ["mean", "logvar"] if header["has_spread"] else ["mean"]
    streams = [[(folder / f"{name}-{number}").open("r+b", buffering=0) for name in names]
               for number in range(len(shapes))]  # fmt: skip
    row_bytes = [math.prod(shape) * FLOAT16.itemsize for shape in shapes]
    places, counts = places_in_buckets(bucket), np.bincount(bucket, minlength=len(shapes))

    def write(row: int, values: Sequence[Any]) -> None:
        encoding, image = divmod(row, len(bucket))
        number = int(bucket[image])
        place = encoding * int(counts[number]) + int(places[image])
        for stream, value in zip(streams[number], values, strict=False):
            _write_at(stream, value, place * row_bytes[number], row_bytes[number])

    return write


def _states_writer(folder: Path) -> Write:
    stream, spans = (folder / "states.bytes").open("r+b", buffering=0), RowFile(folder / "states.spans", (2,), INT64)

    def write(row: int, values: Sequence[Any]) -> None:
        first, last = spans[row].tolist()
        _write_at(stream, values[0], first, last - first)

    return write


def _write_at(stream: Any, value: Any, position: int, size: int) -> None:
    # A value of another size than its row's shape says would end up in the places of its neighbours.
    if len(value) != size:
        raise DatasetError(
            f"a stored tensor has {len(value)} bytes, and its shape takes {size}; run: emoji-ldm latents"
        )
    if os.pwrite(stream.fileno(), value, position) != size:
        raise StoreError(f"cannot write the local copy of the latents {stream.name}: the disk is full; set TMPDIR")


def _take_lock(folder: Path, *, wait: bool) -> int | None:
    """The descriptor that holds the exclusive lock of who copies; None if another process has it."""
    descriptor = os.open(folder / LOCK_FILE, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
