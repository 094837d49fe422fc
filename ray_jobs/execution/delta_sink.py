"""Ray Data -> dataset commits: every finished shard becomes one version, exactly once.

1. plan: the driver names shards of work that no version holds yet
2. read (tasks, 1:1): shard -> its input rows
3. work (actors, 1:1): input rows -> output rows
4. write (tasks, 1:1): output rows -> an uncommitted Parquet file, and its description
5. commit (driver): description -> a Delta version that carries the shard's name

Why nothing is lost or committed twice: a Parquet file that no version names does not exist for readers, so a worker
may die at any point before step 5, and its shard is simply done again. A version names its shard in a Delta `txn`
action (application id `stage:shard`; Delta protocol, "Transaction Identifiers"), written atomically with the rows; a
second commit of the same shard finds that action and does nothing. A shard's name is a hash of its input, so a later
run plans the same names and leaves out those that are committed. Only the driver commits; a crash costs at most the
shards in flight, whose number `inflight_limit` bounds.

Ray's own `write_delta` and checkpointing lose or double rows (measured), so neither is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa
import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    WorkerCrashedError,
)

from emoji_ldm import errors
from emoji_ldm.dataset.delta.parquet_writer import DataFile
from emoji_ldm.dataset.lineage import Lineage
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import EmojiLdmError, JobError
from emoji_ldm.progress import track
from emoji_ldm.schemas import TableSpec
from emoji_ldm.store import Store
from ray_jobs.execution.inflight_limit import start_inflight_limit
from ray_jobs.execution.job_metrics import StageMetrics

SinkRow = dict[str, Any]
# What Ray raises when it has given up retrying after a process or node died. Errors for the user never come this
# way: `_guarded` turns them into values.
CLUSTER_LOSS_ERRORS = (RayActorError, ObjectLostError, WorkerCrashedError, NodeDiedError, OutOfMemoryError)


@dataclass(frozen=True)
class WorkShard:
    """One unit of commit: its name, which is the same in every run, and its input."""

    name: str
    payload: dict[str, Any]  # what `SinkJob.read_input` needs; must be JSON
    num_items: int = 1  # for the progress bar
    replaces: tuple[str, ...] = ()  # keys of older rows that the shard's rows replace


@dataclass(frozen=True)
class ShardOutput:
    """What a worker returns for one shard."""

    rows: pa.Table
    counts: dict[str, int] = field(default_factory=dict)  # such as {"kept": 60, "dead": 4}
    extra: pa.Table | None = None  # small rows for the driver itself


class ShardWorker(Protocol):
    """The class of an actor: built once per actor, called once per shard."""

    def __call__(self, rows: pa.Table) -> ShardOutput:
        """Turn the input rows of one shard into output rows; what failed is a row with a reason."""
        ...


@dataclass(frozen=True)
class SinkJob:
    """How the shards of a stage are processed. Everything here is pickled and sent to the cluster."""

    stage: str
    store: Store
    table: TableSpec
    read_input: Callable[[dict[str, Any]], pa.Table]  # payload -> input rows
    worker: Callable[..., ShardWorker]
    worker_args: tuple[Any, ...]
    num_workers: int
    num_cpus: float = 0.5  # per worker, as the next field
    num_gpus: float = 0


@dataclass(frozen=True)
class FinishedShard:
    """A shard whose rows are in a file, ready to be committed."""

    shard: str
    num_items: int
    file: DataFile | None  # None if the shard has no output rows
    counts: dict[str, int]
    extra: pa.Table | None


def stream_shards(job: SinkJob, shards: Sequence[WorkShard]) -> Iterator[FinishedShard]:
    """Process shards on the cluster; yields each as it finishes, in any order, to be committed before the next.

    Raises:
        EmojiLdmError: A worker raised it; the shards before it are yielded first.
        JobError: A part of the cluster was lost, more often than Ray retries.
    """
    # One block per shard: a block is what Ray hands to one task, and yields as soon as that is done.
    data = ray.data.from_items([_row(shard) for shard in shards], override_num_blocks=len(shards))
    workers = min(job.num_workers, len(shards))
    limit = start_inflight_limit(workers)
    # As many readers and writers as workers: on a small machine each further process costs a second to start.
    data = data.map(_reader(job), num_cpus=0.25, concurrency=workers)
    # The pool has a fixed size: an actor loads a model, which costs more than its idle time would.
    data = data.map(
        _WorkerActor, fn_constructor_args=(limit, job.worker, job.worker_args), concurrency=(workers, workers),
        num_cpus=job.num_cpus, num_gpus=job.num_gpus or None,
    )  # fmt: skip
    data = data.map(_writer(job), num_cpus=0.25, concurrency=workers)
    metrics = StageMetrics(job.stage, job.table.name, sum(shard.num_items for shard in shards))
    try:
        for row in data.iter_rows():
            if row["error"]:
                _raise(row["error"])
            file = DataFile(**json.loads(row["file"])) if row["file"] else None
            extra = _from_ipc(row["extra"]) if row["extra"] else None
            counts = json.loads(row["counts"])
            # The caller commits before it asks for the next one: only then does the shard leave the limit below.
            yield FinishedShard(row["shard"], row["num_items"], file, counts, extra)
            metrics.shard_committed(row["num_items"], counts)
            limit.release.remote(row["shard"])
    except CLUSTER_LOSS_ERRORS as error:
        first = str(error).strip().partition("\n")[0]
        raise JobError(
            f"{job.stage} lost a part of its Ray cluster ({type(error).__name__}: {first}); "
            "what was committed is safe: run the same command again to go on"
        ) from None


def _row(shard: WorkShard) -> SinkRow:
    """A shard as Ray Data carries it: every step fills in its columns."""
    # All columns exist from the start, since Ray Data infers one schema per block, and blocks of different schemas
    # would have to be unified.
    empty = {"rows": b"", "counts": "{}", "extra": b"", "file": "", "error": ""}
    return {"shard": shard.name, "num_items": shard.num_items, "payload": json.dumps(shard.payload), **empty}


def run(job: SinkJob, shards: Sequence[WorkShard], lineage: Lineage, *, unit: str = "rows") -> dict[str, int]:
    """Process shards and commit each as it finishes; returns the summed counts of what was committed."""
    table, totals = Table(job.store, job.table), dict[str, int]()
    if not shards:
        return totals
    # A guard: the shards were planned on this version, so a commit fails if another writer has changed rows since.
    table.expected_version = table.version
    replaces = {shard.name: shard.replaces for shard in shards}
    with track(job.stage, sum(s.num_items for s in shards), unit) as progress:
        for done in stream_shards(job, shards):
            files = [done.file] if done.file else []
            metadata, app_id = lineage.metadata(done.counts, done.shard), f"{job.stage}:{done.shard}"
            # A retry replaces failed rows. Upsert removes them in the version that adds the new ones, so no reader ever
            # sees both or neither.
            if older := replaces[done.shard]:
                version = table.upsert(files, older, app_id=app_id, metadata=metadata)
            else:
                version = table.commit(files, app_id=app_id, metadata=metadata)
            # None means that an earlier run has committed this shard already: its rows count there and not again here.
            if version is not None:
                add_counts(totals, done.counts)
            progress.advance(done.num_items)
    return totals


def add_counts(totals: dict[str, int], counts: Mapping[str, int]) -> None:
    """Add counts to totals, in place."""
    for name, count in counts.items():
        totals[name] = totals.get(name, 0) + count


class _WorkerActor:
    """The actor of step 3. It builds its worker at the first shard, so that a failure to do so travels in a row."""

    def __init__(self, inflight_limit: Any, build: Callable[..., ShardWorker], args: tuple[Any, ...]) -> None:
        self.inflight_limit, self.build, self.args = inflight_limit, build, args
        self.worker: ShardWorker | None = None

    def __call__(self, row: SinkRow) -> SinkRow:
        return _guarded(self._work, row)

    def _work(self, row: SinkRow) -> SinkRow:
        # A constructor that raises would reach the driver as the death of an actor, with a stack trace. Built here, a
        # missing model stops the job with one line.
        self.worker = self.worker or self.build(*self.args)
        # Blocks this actor, not the event loop of the limit, until a shard before it is committed.
        ray.get(self.inflight_limit.acquire.remote(row["shard"]))
        output = self.worker(_from_ipc(row["rows"]))
        extra = _to_ipc(output.extra) if output.extra is not None else b""
        return {**row, "rows": _to_ipc(output.rows), "counts": json.dumps(output.counts), "extra": extra}


def _reader(job: SinkJob) -> Callable[[SinkRow], SinkRow]:
    # The closure is pickled and sent to the readers, which need neither the worker's class nor its imports (torch).
    read_input = job.read_input

    def read(row: SinkRow) -> SinkRow:
        return {**row, "rows": _to_ipc(read_input(json.loads(row["payload"]))), "payload": ""}

    return lambda row: _guarded(read, row)


def _writer(job: SinkJob) -> Callable[[SinkRow], SinkRow]:
    # As in `_reader`, the closure takes only what it needs: pickling the whole job would send the worker's arguments
    # too.
    store, spec = job.store, job.table

    def write(row: SinkRow) -> SinkRow:
        rows = _from_ipc(row["rows"])
        # The rows stay in the file: only its description travels to the driver.
        return {**row, "rows": b"", "file": Table(store, spec).write_file(rows).to_json() if rows.num_rows else ""}

    return lambda row: _guarded(write, row)


def _guarded(step: Callable[[SinkRow], SinkRow], row: SinkRow) -> SinkRow:
    """Do a step; an error for the user travels in the row, since Ray would keep only its text, in a stack trace."""
    if row["error"]:
        return row
    try:
        return step(row)
    except EmojiLdmError as error:
        return {**row, "rows": b"", "error": json.dumps([type(error).__name__, str(error)])}


def _raise(error: str) -> None:
    # Only classes of `emoji_ldm.errors` are looked up: `_guarded` catches nothing but those.
    name, text = json.loads(error)
    raise getattr(errors, name)(text)


# A row of Ray Data holds plain values: a table travels in it as Arrow IPC bytes.
def _to_ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _from_ipc(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()
