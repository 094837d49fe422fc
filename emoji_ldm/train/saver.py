"""Checkpoints beside training: the pause is a copy of the local shards into host memory, the rest is a thread's work.

1. copy (every rank, training waits): pieces of weights, moments and averages into one host buffer
2. bring (every rank's thread): the buffer to the store, then a mark with its checksums
3. publish (rank 0's thread): wait for all marks, join the average, export it, then the manifest, pointer, retention
4. show (rank 0's thread): draw a sample grid if one is due

One save is in flight: the next one waits for it. Threads use no collectives: ranks meet in the store.
"""

from __future__ import annotations

import hashlib
import threading
import time
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
from torch import Tensor

from emoji_ldm.dataset import checkpoints
from emoji_ldm.errors import JobError
from emoji_ldm.model.ema import WEIGHT, Averages
from emoji_ldm.train import checkpoint, journal, owner
from emoji_ldm.train.adam import MOMENTS, Moments
from emoji_ldm.train.checkpoint import STATE
from emoji_ldm.train.engine import Engine, Piece
from emoji_ldm.train.feed import one_line
from emoji_ldm.train.journal import Journal
from emoji_ldm.train.pieces import Mark, Snapshot, fill, name_of, shared_out
from emoji_ldm.train.plan import Task
from emoji_ldm.train.thread import Thread
from emoji_ldm.train.watch import Watch
from emoji_ldm.train.world import everywhere

POLL_S = 0.1  # between looks for the marks of other ranks
WAIT_S = 1800.0  # a rank that has not brought its file by then will not
GRACE_S = 300.0  # the same, once training has failed
STOP_S = 60.0  # what a save that was told to stop may still take, to write what it has begun

Facts = dict[str, Any]


@dataclass(frozen=True)
class Save:
    """What a save brings besides the snapshot, fixed at its step."""

    step: int
    path: str  # of the checkpoint in the store
    show: bool  # whether a sample grid is due
    updates: int  # of Adam
    log: str  # the log up to the step; rank 0's


class Saver:
    """Every rank has one; `save`, `check` and `finish` are called by all ranks at the same steps."""

    def __init__(self, engine: Engine, averages: Averages, task: Task, watch: Watch) -> None:
        self.engine, self.averages, self.task, self.watch = engine, averages, task, watch
        self.place, self.plan, self.world = watch.place, watch.plan, watch.world
        self.attempt = self.world.share(checkpoints.new_attempt() if self.world.leads else None)
        self.facts: Facts = {}
        self._thread = Thread("save")
        self._snapshot = self._thread.submit(self._lay_out, self._own_pieces())
        self._pending: Future[Facts] | None = None
        self._stop = threading.Event()
        self._looked = time.monotonic()

    def save(self, done: int, *, show: bool) -> None:
        """Begin to save the state after `done` steps; training may go on when this returns.

        Raises:
            Exception: Whatever a thread of any rank met since; on every rank.
        """
        self._wait()
        moments = Moments(self.engine.optimizer, self.engine.states())
        kinds = checkpoint.kinds_of(self.engine, self.averages, moments)
        snapshot = self._snapshot.result()
        snapshot.take(kinds)
        folder = checkpoints.folder_name(done, self.attempt)
        save = Save(
            done, f"checkpoints/{self.place.config.run}/{self.plan.kind}/{folder}", show,
            moments.step, self.watch.journal.text() if self.watch.journal else "",
        )  # fmt: skip
        self._pending = self._thread.submit(self._bring, save, snapshot)

    def check(self) -> None:
        """Raise on every rank what any of them met: a failed save, or that another driver took the run over."""
        self._exchange()

    def finish(self) -> Facts:
        """Wait until the last save is published; what its export measured, and where it lies."""
        self._wait()
        self.close()
        return {name: value for name, value in self.facts.items() if name not in ("step", "num_workers")}

    def close(self) -> None:
        """Let a save in flight end, however training did; not for ever, as other ranks may have died, or the store.

        One that does not end is left behind, with a note in the log. Its process may end meanwhile.
        """
        began = time.monotonic()
        if self._pending:
            wait([self._pending], timeout=GRACE_S)
        self._stop.set()
        if not self._thread.close(STOP_S) and self.watch.journal:
            self.watch.journal.note(
                f"the save of a checkpoint did not end within {time.monotonic() - began:.0f} s and is left behind; "
                "the same command goes on from the last whole one. Look whether the store answers"
            )

    def _wait(self) -> None:
        while self._exchange():
            time.sleep(POLL_S / 2)

    def _exchange(self) -> bool:
        """Whether a save is in flight on any rank; errors of any are raised on all."""
        error, busy = self._look(), bool(self._pending and not self._pending.done())
        told = self.world.mean(torch.tensor([float(error is not None), float(busy)], device=self.world.device)).tolist()
        if told[0]:
            self._stop.set()
            raise everywhere(next(found for found in self.world.all(error) if found is not None))
        if self._pending and not told[1]:
            self.facts, self._pending = self._pending.result(), None
        return bool(told[1])

    def _look(self) -> BaseException | None:
        """What went wrong on this rank since it was asked last; other ranks wait for the answer: it never raises."""
        if self._pending and self._pending.done() and (error := self._pending.exception()):
            return error
        if self.world.leads and time.monotonic() - self._looked > owner.LOOK_S:
            self._looked = time.monotonic()
            try:
                if not self._owns():
                    return owner.taken_over(self.place.config.run, self.plan.section)
            except Exception as error:  # noqa: BLE001 (told on every rank)
                return error
        return None

    def _owns(self) -> bool:
        return owner.owns(self.place.store, self.place.config.run, self.plan.section, self.place.owner)

    def _own_pieces(self) -> list[Piece]:
        pieces = self.engine.pieces()
        return pieces if self.plan.zero_stage else shared_out(pieces, self.world.rank, self.world.size)

    def _lay_out(self, pieces: list[Piece]) -> Snapshot:
        """A thread's work while the first steps run: to allocate and touch so much memory takes a while."""
        kinds = (WEIGHT, *MOMENTS, *self.averages.tensors)
        return Snapshot(kinds, pieces, pinned=self.world.device.type == "cuda")

    def _bring(self, save: Save, snapshot: Snapshot) -> Facts:
        """A thread's work."""
        store, name = self.place.store, name_of(self.world.rank, self.world.size)
        mark = snapshot.mark(f"{name}.safetensors", save.updates)
        store.put(snapshot.bytes(), save.path, STATE, mark.file)
        store.write(mark.dump(), save.path, STATE, f"{name}.json")
        return self._publish(save, snapshot, mark) if self.world.leads else {}

    def _publish(self, save: Save, snapshot: Snapshot, own: Mark) -> Facts:
        store, sha256 = self.place.store, dict[str, str]()
        marks = self._marks(save, sha256)
        folder = self.place.scratch / f"export-{self.plan.kind}"
        rmtree(folder, ignore_errors=True)
        measured = self.task.export(self._average(save, marks, snapshot, own), folder)
        sha256 |= {path.relative_to(folder).as_posix(): _sha256(path) for path in folder.rglob("*") if path.is_file()}
        store.upload(folder, save.path)
        store.write(save.log.encode(), save.path, STATE, journal.NAME)
        if not self._owns():
            raise owner.taken_over(self.place.config.run, self.plan.section)
        facts = {"step": save.step, "num_workers": self.world.size, **measured}
        described = {**self.task.facts, **facts, **checkpoint.described(self.place, self.plan)}
        published = checkpoints.publish(store, save.path, described, sha256)
        checkpoints.prune(store, self.place.config.run, self.plan.kind, self.plan.keep)
        if save.show and self.watch.journal:
            self._show(folder, save.step, self.watch.journal)
        return {**facts, "checkpoint": published.uri}

    def _show(self, folder: Path, step: int, log: Journal) -> None:
        """Draw what is only to be looked at: the checkpoint is published, and training goes on without it."""
        if self._stop.is_set():
            return
        try:
            for kind, png in self.task.preview(folder).items():
                log.show(png, step, kind)
        except Exception as error:  # noqa: BLE001 (memory beside the training may be short, or a disk full)
            log.note(f"no sample grid at step {step}: {one_line(error)}")

    def _marks(self, save: Save, sha256: dict[str, str]) -> list[Mark]:
        """The marks of all ranks, once they are there; their hashes go into `sha256`."""
        names = [f"{STATE}/{name_of(rank, self.world.size)}.json" for rank in range(self.world.size)]
        deadline, missing = time.monotonic() + WAIT_S, names
        while missing := [name for name in missing if not self.place.store.exists(save.path, name)]:
            if time.monotonic() > deadline or self._stop.wait(POLL_S):
                raise JobError(f"checkpoint {save.path} is not complete: {', '.join(missing)} never came")
        for name in names:
            sha256[name] = hashlib.sha256(self.place.store.read(save.path, name)).hexdigest()
        return checkpoint.marks_of(self.place.store, save.path, names, sha256)

    def _average(self, save: Save, marks: list[Mark], snapshot: Snapshot, own: Mark) -> dict[str, Tensor]:
        """The whole averaged weights: the own part from memory, others' from the store."""
        shapes = {name: shape for mark in marks for name, shape in mark.shapes.items()}
        whole = {name: torch.empty(shape) for name, shape in shapes.items()}
        pieces = [Piece(name, tuple(tensor.shape), 0, tensor.numel(), number, 0)
                  for number, (name, tensor) in enumerate(whole.items())]  # fmt: skip
        readers = [snapshot.read if mark.file == own.file else checkpoint.reader(self.place.store, save.path, mark.file)
                   for mark in marks]  # fmt: skip
        fill({self.averages.exported: (pieces, list(whole.values()))}, list(zip(marks, readers, strict=True)))
        return whole


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
