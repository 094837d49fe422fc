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
from emoji_ldm.model.ema import WEIGHTS_NAME, WeightAverages
from emoji_ldm.train import resume, run_fencing
from emoji_ldm.train.daemon_executor import DaemonExecutor
from emoji_ldm.train.engines.distributed import mark_raised_everywhere
from emoji_ldm.train.engines.optimizer import MOMENT_NAMES, AdamMoments
from emoji_ldm.train.engines.sharded_state import (
    ShardIndex,
    ShardSlice,
    Snapshot,
    load_slices,
    shard_file_name,
    split_replicated,
)
from emoji_ldm.train.engines.training_engine import TrainingEngine
from emoji_ldm.train.metrics import training_metrics
from emoji_ldm.train.metrics.async_tracker import describe_error
from emoji_ldm.train.metrics.training_metrics import MetricsLog, MetricsRecorder
from emoji_ldm.train.resume import STATE_FOLDER
from emoji_ldm.train.training_args import TrainingTask

POLL_S = 0.1  # between looks for the marks of other ranks
SHARD_TIMEOUT_S = 1800.0  # a rank that has not brought its file by then will not
FAILED_SAVE_TIMEOUT_S = 300.0  # the same, once training has failed
STOP_TIMEOUT_S = 60.0  # what a save that was told to stop may still take, to write what it has begun

ExportFacts = dict[str, Any]


@dataclass(frozen=True)
class PendingSave:
    """What a save brings besides the snapshot, fixed at its step."""

    step: int
    path: str  # of the checkpoint in the store
    show: bool  # whether a sample grid is due
    updates: int  # of Adam
    log: str  # the log up to the step; rank 0's


class AsyncCheckpointer:
    """Every rank has one; `save`, `check` and `finish` are called by all ranks at the same steps."""

    def __init__(
        self, engine: TrainingEngine, averages: WeightAverages, task: TrainingTask, watch: MetricsRecorder
    ) -> None:
        self.engine, self.averages, self.task, self.watch = engine, averages, task, watch
        self.place, self.plan, self.world = watch.place, watch.plan, watch.world
        self.attempt = self.world.share(checkpoints.new_attempt() if self.world.leads else None)
        self.facts: ExportFacts = {}
        self._thread = DaemonExecutor("save")
        self._snapshot = self._thread.submit(self._lay_out, self._own_pieces())
        self._pending: Future[ExportFacts] | None = None
        self._stop = threading.Event()
        self._looked = time.monotonic()

    def save(self, done: int, *, show: bool) -> None:
        """Begin to save the state after `done` steps; training may go on when this returns.

        Raises:
            Exception: Whatever a thread of any rank met since; on every rank.
        """
        self._wait()
        moments = AdamMoments(self.engine.optimizer, self.engine.states())
        kinds = resume.checkpoint_tensors(self.engine, self.averages, moments)
        snapshot = self._snapshot.result()
        snapshot.take(kinds)
        folder = checkpoints.folder_name(done, self.attempt)
        save = PendingSave(
            done, f"checkpoints/{self.place.config.run}/{self.plan.kind}/{folder}", show,
            moments.step, self.watch.journal.text() if self.watch.journal else "",
        )  # fmt: skip
        self._pending = self._thread.submit(self._bring, save, snapshot)

    def check(self) -> None:
        """Raise on every rank what any of them met: a failed save, or that another driver took the run over."""
        self._exchange()

    def finish(self) -> ExportFacts:
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
            wait([self._pending], timeout=FAILED_SAVE_TIMEOUT_S)
        self._stop.set()
        if not self._thread.close(STOP_TIMEOUT_S) and self.watch.journal:
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
            raise mark_raised_everywhere(next(found for found in self.world.all(error) if found is not None))
        if self._pending and not told[1]:
            self.facts, self._pending = self._pending.result(), None
        return bool(told[1])

    def _look(self) -> BaseException | None:
        """What went wrong on this rank since it was asked last; other ranks wait for the answer: it never raises."""
        if self._pending and self._pending.done() and (error := self._pending.exception()):
            return error
        if self.world.leads and time.monotonic() - self._looked > run_fencing.OWNER_POLL_S:
            self._looked = time.monotonic()
            try:
                if not self._owns():
                    return run_fencing.run_taken_over_error(self.place.config.run, self.plan.section)
            except Exception as error:  # noqa: BLE001 (told on every rank)
                return error
        return None

    def _owns(self) -> bool:
        return run_fencing.owns_run(self.place.store, self.place.config.run, self.plan.section, self.place.owner)

    def _own_pieces(self) -> list[ShardSlice]:
        pieces = self.engine.pieces()
        return pieces if self.plan.zero_stage else split_replicated(pieces, self.world.rank, self.world.size)

    def _lay_out(self, pieces: list[ShardSlice]) -> Snapshot:
        """A thread's work while the first steps run: to allocate and touch so much memory takes a while."""
        kinds = (WEIGHTS_NAME, *MOMENT_NAMES, *self.averages.tensors)
        return Snapshot(kinds, pieces, pinned=self.world.device.type == "cuda")

    def _bring(self, save: PendingSave, snapshot: Snapshot) -> ExportFacts:
        """A thread's work."""
        store, name = self.place.store, shard_file_name(self.world.rank, self.world.size)
        mark = snapshot.mark(f"{name}.safetensors", save.updates)
        store.put(snapshot.bytes(), save.path, STATE_FOLDER, mark.file)
        store.write(mark.dump(), save.path, STATE_FOLDER, f"{name}.json")
        return self._publish(save, snapshot, mark) if self.world.leads else {}

    def _publish(self, save: PendingSave, snapshot: Snapshot, own: ShardIndex) -> ExportFacts:
        store, sha256 = self.place.store, dict[str, str]()
        marks = self._marks(save, sha256)
        folder = self.place.scratch / f"export-{self.plan.kind}"
        rmtree(folder, ignore_errors=True)
        measured = self.task.export(self._average(save, marks, snapshot, own), folder)
        sha256 |= {path.relative_to(folder).as_posix(): _sha256(path) for path in folder.rglob("*") if path.is_file()}
        store.upload(folder, save.path)
        store.write(save.log.encode(), save.path, STATE_FOLDER, training_metrics.LOG_FILE)
        if not self._owns():
            raise run_fencing.run_taken_over_error(self.place.config.run, self.plan.section)
        facts = {"step": save.step, "num_workers": self.world.size, **measured}
        described = {**self.task.facts, **facts, **resume.manifest_facts(self.place, self.plan)}
        published = checkpoints.publish_checkpoint(store, save.path, described, sha256)
        checkpoints.prune_checkpoints(store, self.place.config.run, self.plan.kind, self.plan.keep)
        if save.show and self.watch.journal:
            self._show(folder, save.step, self.watch.journal)
        return {**facts, "checkpoint": published.uri}

    def _show(self, folder: Path, step: int, log: MetricsLog) -> None:
        """Draw what is only to be looked at: the checkpoint is published, and training goes on without it."""
        if self._stop.is_set():
            return
        try:
            for kind, png in self.task.preview(folder).items():
                log.show(png, step, kind)
        except Exception as error:  # noqa: BLE001 (memory beside the training may be short, or a disk full)
            log.note(f"no sample grid at step {step}: {describe_error(error)}")

    def _marks(self, save: PendingSave, sha256: dict[str, str]) -> list[ShardIndex]:
        """The marks of all ranks, once they are there; their hashes go into `sha256`."""
        names = [f"{STATE_FOLDER}/{shard_file_name(rank, self.world.size)}.json" for rank in range(self.world.size)]
        deadline, missing = time.monotonic() + SHARD_TIMEOUT_S, names
        while missing := [name for name in missing if not self.place.store.exists(save.path, name)]:
            if time.monotonic() > deadline or self._stop.wait(POLL_S):
                raise JobError(f"checkpoint {save.path} is not complete: {', '.join(missing)} never came")
        for name in names:
            sha256[name] = hashlib.sha256(self.place.store.read(save.path, name)).hexdigest()
        return resume.read_shard_indexes(self.place.store, save.path, names, sha256)

    def _average(
        self, save: PendingSave, marks: list[ShardIndex], snapshot: Snapshot, own: ShardIndex
    ) -> dict[str, Tensor]:
        """The whole averaged weights: the own part from memory, others' from the store."""
        shapes = {name: shape for mark in marks for name, shape in mark.shapes.items()}
        whole = {name: torch.empty(shape) for name, shape in shapes.items()}
        pieces = [ShardSlice(name, tuple(tensor.shape), 0, tensor.numel(), number, 0)
                  for number, (name, tensor) in enumerate(whole.items())]  # fmt: skip
        readers = [snapshot.read if mark.file == own.file else resume.state_file_reader(self.place.store, save.path, mark.file)
                   for mark in marks]  # fmt: skip
        load_slices({self.averages.exported: (pieces, list(whole.values()))}, list(zip(marks, readers, strict=True)))
        return whole


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
