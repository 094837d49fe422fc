"""Checkpoints in the background: training waits for a copy into host memory only, a thread does the rest.

1. copy (every rank, training waits): slices of weights, moments and averages into one host buffer
2. upload (every rank's thread): the buffer to the store, then an index with its checksums
3. publish (rank 0's thread): wait for all indexes, put the average together, export it, write the manifest, prune
4. preview (rank 0's thread): draw a sample grid if one is due

At most one save is in flight: the next one waits for it. Threads must not use collectives, since those of the training
may be under way at the same moment. So ranks meet in the store: rank 0 polls for the index of every other rank. The
manifest is written last. Its existence means that everything it lists is complete, and a crash at any point before
leaves a folder without one, which nobody reads and the next save removes.
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
from emoji_ldm.model.ema import WeightAverages
from emoji_ldm.train import resume, run_fencing
from emoji_ldm.train.engines.distributed import mark_raised_everywhere
from emoji_ldm.train.engines.sharded_state import (
    ShardIndex,
    ShardSlice,
    Snapshot,
    load_slices,
    shard_file_name,
    split_replicated,
    whole_slices,
)
from emoji_ldm.train.engines.training_engine import TrainingEngine
from emoji_ldm.train.manifest import checkpoint_facts
from emoji_ldm.train.metrics import training_metrics
from emoji_ldm.train.metrics.async_tracker import DaemonExecutor, describe_error
from emoji_ldm.train.metrics.metrics_recorder import MetricsRecorder
from emoji_ldm.train.metrics.training_metrics import MetricsLog
from emoji_ldm.train.optimizers.optimizer_state import OptimizerState
from emoji_ldm.train.resume import STATE_FOLDER
from emoji_ldm.train.store_outage import outlast_outage
from emoji_ldm.train.training_args import TrainingTask

POLL_S = 0.1  # between looks for the indexes of other ranks
# A rank that has not uploaded its file by then never will: its process is gone, or cannot reach the store.
SHARD_TIMEOUT_S = 1800.0
FAILED_SAVE_TIMEOUT_S = 300.0  # how long a save may still take once training has failed
STOP_TIMEOUT_S = 60.0  # how long a save that was asked to stop may take to finish its current write

ExportFacts = dict[str, Any]


@dataclass(frozen=True)
class PendingSave:
    """What a save needs besides the snapshot, fixed at its step."""

    step: int
    path: str  # path of the checkpoint in the store
    render_previews: bool  # whether a sample grid is due
    updates: int  # the optimiser's updates so far
    scalars: dict[str, float]  # its numbers for all weights together
    log: str  # the log up to the step on rank 0, empty on the others


class AsyncCheckpointer:
    """Every rank has one; `save`, `check` and `finish` are called by all ranks at the same steps."""

    def __init__(
        self, engine: TrainingEngine, averages: WeightAverages, task: TrainingTask, metrics: MetricsRecorder
    ) -> None:
        self.engine, self.averages, self.task, self.metrics = engine, averages, task, metrics
        self.context, self.args, self.ranks = metrics.context, metrics.args, metrics.ranks
        # The attempt is part of each folder's name: a group that was thought dead cannot mix its files with ours, and
        # an index found in the folder is one of this group.
        self.attempt = self.ranks.broadcast(checkpoints.new_attempt() if self.ranks.is_main else None)
        self.export_facts: ExportFacts = {}
        self._thread = DaemonExecutor("save")
        # Allocating and touching so much memory takes a while: it is done while the first steps run.
        self._snapshot = self._thread.submit(self._lay_out, self._own_slices())
        self._pending: Future[ExportFacts] | None = None
        self._stop = threading.Event()
        self._polled_owner = time.monotonic()

    def save(self, done: int, *, render_previews: bool) -> None:
        """Begin to save the state after `done` steps; training may go on when this returns.

        Raises:
            Exception: Any error of a thread of any rank since the last call; raised on every rank.
        """
        self._wait()
        state = OptimizerState(self.engine.optimizer, self.engine.optimizer_state_keys(), self.engine.loss_scale)
        tensors = resume.checkpoint_tensors(self.engine, self.averages, state)
        # There is one host buffer, so the save before it has to be over, which `_wait` made sure of.
        snapshot = self._snapshot.result()
        # From here on the weights may change: everything the thread reads is in the snapshot or in `PendingSave`.
        snapshot.copy_from(tensors)
        folder = checkpoints.folder_name(done, self.attempt)
        save = PendingSave(
            done, f"checkpoints/{self.context.config.run}/{self.args.kind}/{folder}", render_previews,
            state.step, state.scalars, self.metrics.metrics_log.text() if self.metrics.metrics_log else "",
        )  # fmt: skip
        self._pending = self._thread.submit(self._upload_through_outages, save, snapshot)

    def check(self) -> None:
        """Raise on every rank what any of them met: a failed save, or that another driver took the run over."""
        self._exchange()

    def finish(self) -> ExportFacts:
        """Wait until the last save is published; the facts of its export, and its URI."""
        self._wait()
        self.close()
        return {name: value for name, value in self.export_facts.items() if name not in ("step", "num_workers")}

    def close(self) -> None:
        """Let a save in flight end, however training ended; within a limit, as other ranks or the store may be gone.

        A save that does not end is abandoned, with a note in the log. Its process may end meanwhile.
        """
        began = time.monotonic()
        if self._pending:
            wait([self._pending], timeout=FAILED_SAVE_TIMEOUT_S)
        self._stop.set()
        # `_stop` ends a save that still waits for other ranks. One that is writing gets time to end that write.
        if not self._thread.shutdown(STOP_TIMEOUT_S) and self.metrics.metrics_log:
            self.metrics.metrics_log.add_note(
                f"the save of a checkpoint did not end within {time.monotonic() - began:.0f} s and is left behind; "
                "the same command goes on from the last whole one. Check whether the store responds"
            )

    def _wait(self) -> None:
        while self._exchange():
            time.sleep(POLL_S / 2)

    def _exchange(self) -> bool:
        """Whether a save is in flight on any rank; errors of any are raised on all."""
        error, busy = self._local_error(), bool(self._pending and not self._pending.done())
        # One small collective tells every rank both facts. The errors themselves are exchanged only if there is one.
        flags = torch.tensor([float(error is not None), float(busy)], device=self.ranks.device)
        any_error, any_busy = self.ranks.all_reduce_mean(flags).tolist()
        if any_error:
            self._stop.set()
            errors = self.ranks.all_gather_objects(error)
            raise mark_raised_everywhere(next(found for found in errors if found is not None))
        # Only when all ranks are done may any of them forget its save, else they would disagree on when to begin the
        # next one.
        if self._pending and not any_busy:
            self.export_facts, self._pending = self._pending.result(), None
        return bool(any_busy)

    def _local_error(self) -> BaseException | None:
        """What went wrong on this rank; it never raises, since the other ranks wait for the answer."""
        if self._pending and self._pending.done() and (error := self._pending.exception()):
            return error
        # Reading the owner token costs a request, so one rank does it, every few seconds.
        if self.ranks.is_main and time.monotonic() - self._polled_owner > run_fencing.OWNER_POLL_S:
            self._polled_owner = time.monotonic()
            try:
                if not self._owns():
                    return run_fencing.run_taken_over_error(self.context.config.run, self.args.section)
            except Exception as error:  # noqa: BLE001 (raised on every rank)
                return error
        return None

    def _owns(self) -> bool:
        context = self.context
        return run_fencing.owns_run(context.store, context.config.run, self.args.section, context.owner_token)

    def _own_slices(self) -> dict[str, list[ShardSlice]]:
        """`{kind: slices}` that this rank writes; at stage 0 every rank holds everything, and writes an equal share."""
        # The test is on the option and not on the engine: a single process shards nothing either way, and its share is
        # everything.
        state = OptimizerState(self.engine.optimizer, self.engine.optimizer_state_keys(), self.engine.loss_scale)
        slices = resume.checkpoint_slices(self.engine, self.averages, state)
        if self.args.zero_stage:
            return slices
        rank, size = self.ranks.rank, self.ranks.world_size
        return {kind: split_replicated(of_kind, rank, size) for kind, of_kind in slices.items()}

    def _lay_out(self, slices: dict[str, list[ShardSlice]]) -> Snapshot:
        return Snapshot(slices, pinned=self.ranks.device.type == "cuda")

    def _upload_through_outages(self, save: PendingSave, snapshot: Snapshot) -> ExportFacts:
        # Ranks other than 0 have no log, and need none: they all use the same store.
        log = self.metrics.metrics_log
        note = log.add_note if log else lambda _: None
        return outlast_outage(self.context.store, lambda: self._upload(save, snapshot), note, self._stop)

    def _upload(self, save: PendingSave, snapshot: Snapshot) -> ExportFacts:
        """The work of every rank's thread; rank 0's goes on to publish."""
        store, name = self.context.store, shard_file_name(self.ranks.rank, self.ranks.world_size)
        index = snapshot.build_index(f"{name}.safetensors", save.updates, save.scalars)
        # The index comes after the data, so that its existence tells rank 0 that this rank is done.
        store.write_large(snapshot.bytes(), save.path, STATE_FOLDER, index.file)
        store.write(index.to_json(), save.path, STATE_FOLDER, f"{name}.json")
        return self._publish(save, snapshot, index) if self.ranks.is_main else {}

    def _publish(self, save: PendingSave, snapshot: Snapshot, own: ShardIndex) -> ExportFacts:
        """Export the average beside the state, then make the checkpoint visible by its manifest."""
        store, sha256 = self.context.store, dict[str, str]()
        indexes = self._wait_for_indexes(save, sha256)
        folder = self.context.scratch_dir / f"export-{self.args.kind}"
        # The folder may still hold the export of the save before, or of one that failed.
        rmtree(folder, ignore_errors=True)
        measured = self.task.export(self._gather_average(save, indexes, snapshot, own), folder)
        # The hashes are those of the local files, so a later download is compared with what was meant to be stored.
        sha256 |= {path.relative_to(folder).as_posix(): _sha256(path) for path in folder.rglob("*") if path.is_file()}
        store.upload(folder, save.path)
        store.write(save.log.encode(), save.path, STATE_FOLDER, training_metrics.LOG_FILE)
        # This is the last moment to notice, as the manifest makes the checkpoint count. See `run_fencing`.
        if not self._owns():
            raise run_fencing.run_taken_over_error(self.context.config.run, self.args.section)
        facts = {"step": save.step, "num_workers": self.ranks.world_size, **measured}
        recorded = {**self.task.manifest_facts, **facts, **checkpoint_facts(self.context, self.args)}
        published = checkpoints.publish_checkpoint(store, save.path, recorded, sha256)
        # Old checkpoints go only now that a newer one is complete.
        checkpoints.prune_checkpoints(store, self.context.config.run, self.args.kind, self.args.keep_last)
        # Drawing comes last: it may take long or fail, and by now nothing depends on it.
        if save.render_previews and self.metrics.metrics_log:
            self._render_previews(folder, save.step, self.metrics.metrics_log)
        return {**facts, "checkpoint": published.uri}

    def _render_previews(self, folder: Path, step: int, log: MetricsLog) -> None:
        """Draw sample grids; a failure costs a note, as the checkpoint is published and training needs no grid."""
        if self._stop.is_set():
            return
        try:
            for kind, png in self.task.preview(folder).items():
                log.log_image(png, step, kind)
        except Exception as error:  # noqa: BLE001 (memory beside the training may be short, or a disk full)
            log.add_note(f"no sample grid at step {step}: {describe_error(error)}")

    def _wait_for_indexes(self, save: PendingSave, sha256: dict[str, str]) -> list[ShardIndex]:
        """The indexes of all ranks, once they exist; their hashes go into `sha256`."""
        names = [
            f"{STATE_FOLDER}/{shard_file_name(rank, self.ranks.world_size)}.json"
            for rank in range(self.ranks.world_size)
        ]
        store = self.context.store
        deadline, missing = time.monotonic() + SHARD_TIMEOUT_S, names
        while missing := [name for name in missing if not store.exists(save.path, name)]:
            # `_stop` is set when another rank has failed, whose index will never come.
            if time.monotonic() > deadline or self._stop.wait(POLL_S):
                raise JobError(f"checkpoint {save.path} is not complete: {', '.join(missing)} never came")
        for name in names:
            sha256[name] = hashlib.sha256(store.read(save.path, name)).hexdigest()
        return resume.read_shard_indexes(store, save.path, names, sha256)

    def _gather_average(
        self, save: PendingSave, indexes: list[ShardIndex], snapshot: Snapshot, own: ShardIndex
    ) -> dict[str, Tensor]:
        """The whole averaged weights: this rank's part from memory, the others' from the store."""
        shapes = {name: shape for index in indexes for name, shape in index.shapes.items()}
        whole = {name: torch.empty(shape) for name, shape in shapes.items()}
        tensors = list(whole.values())
        # Reading the average back through the store works for any way of sharding, and needs no collective. Its own
        # part rank 0 still has in memory.
        readers = [
            snapshot.read
            if index.file == own.file
            else resume.state_file_reader(self.context.store, save.path, index.file)
            for index in indexes
        ]
        requested = {self.averages.exported: (whole_slices(list(whole), tensors), tensors)}
        load_slices(requested, list(zip(indexes, readers, strict=True)))
        return whole


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
