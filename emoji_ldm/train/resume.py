"""Resume from a checkpoint, whatever number of ranks and ZeRO stage wrote it.

1. candidates: the run's complete checkpoints, newest first; then the one that option `resume` names
2. refuse: another network, objective, autoencoder or text encoder than the configuration's is an error that names it
3. load: every rank reads the elements that its own shards hold; a damaged checkpoint gives way to the one before it

All values are fp32 and copied unchanged, and data order and noise depend on (seed, step) alone. So with the same number
of ranks and of CPU threads (which decide in what order numbers are summed up) a resumed run repeats the uninterrupted
one bit by bit. The exception is `optimizer=adamw8bit`, for which a resume rounds the scales of the moments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from emoji_ldm.config import Config
from emoji_ldm.dataset import checkpoints
from emoji_ldm.dataset.checkpoints import Checkpoint
from emoji_ldm.errors import ModelError
from emoji_ldm.model.ema import AVERAGE_NAMES, WEIGHTS_NAME, WeightAverages
from emoji_ldm.model.torch_compat import copy_tensors
from emoji_ldm.store import Store
from emoji_ldm.train import run_fencing
from emoji_ldm.train.engines.distributed import DistributedContext
from emoji_ldm.train.engines.sharded_state import CorruptStateError, RangeReader, ShardIndex, ShardSlice, load_slices
from emoji_ldm.train.engines.training_engine import TrainingEngine
from emoji_ldm.train.manifest import mismatch_error, refuse_finished, refuse_mismatch
from emoji_ldm.train.metrics import training_metrics
from emoji_ldm.train.optimizers.optimizer_state import OptimizerState
from emoji_ldm.train.training_args import RunContext, TrainingArgs

STATE_FOLDER = "state"  # folder of a checkpoint that only training reads


@dataclass(frozen=True)
class ResumeState:
    """Where a training goes on."""

    step: int
    log_lines: Sequence[training_metrics.MetricsLine]  # the log up to there
    num_updates: int = 0  # the optimiser's updates so far: steps without those that were skipped
    scalars: Mapping[str, float] = field(default_factory=dict)  # its numbers for all weights together
    note: str = ""  # tells the user which damaged checkpoints were passed over


def checkpoint_tensors(
    engine: TrainingEngine, averages: WeightAverages, state: OptimizerState
) -> dict[str, Sequence[Tensor]]:
    """`{kind: tensors}`: weights, the optimiser's state and averages, all that a checkpoint stores."""
    return {WEIGHTS_NAME: engine.master_shards(), **state.tensors, **averages.tensors}


def checkpoint_slices(
    engine: TrainingEngine, averages: WeightAverages, state: OptimizerState
) -> dict[str, list[ShardSlice]]:
    """`{kind: where its named values lie in these tensors}`."""
    weights = engine.slices()
    return {WEIGHTS_NAME: weights, **state.slices(weights), **dict.fromkeys(averages.tensors, weights)}


def resume_training(
    engine: TrainingEngine, averages: WeightAverages, context: RunContext, args: TrainingArgs,
    ranks: DistributedContext, facts: Mapping[str, Any],
) -> ResumeState:  # fmt: skip
    """Load weights, moments and averages of the newest whole checkpoint, if there is one; a collective.

    `facts` are the task's `manifest_facts`, which must equal those of the checkpoint as far as `FIXED_FACTS` goes.

    Raises:
        ConfigError: The checkpoint that `resume` names leaves nothing to train.
        ModelError: The checkpoint is of another network or objective, or there should be one but none is whole.
    """
    optimizer = OptimizerState(engine.optimizer, engine.optimizer_state_keys(), engine.loss_scale)
    # DeepSpeed makes a step with zero gradients while ZeRO is built, which counts as an update.
    optimizer.reset(engine.master_shards())
    tensors = checkpoint_tensors(engine, averages, optimizer)
    slices = checkpoint_slices(engine, averages, optimizer)
    found = ranks.run_on_all(
        lambda: resume_candidates(context.store, context.config.run, args) if ranks.is_main else None
    )
    reasons: list[str] = []
    damaged: list[Checkpoint] = []
    # All ranks use rank 0's list. If each listed for itself, they could see different checkpoints while one is being
    # pruned.
    for checkpoint in ranks.broadcast(found):
        try:
            # On all ranks or on none: one that met damage must not go back to an older step alone.
            state = ranks.run_on_all(partial(_load_checkpoint, checkpoint, slices, tensors, context, args, facts))
        except CorruptStateError as error:
            reasons.append(str(error) if checkpoint.uri in str(error) else str(checkpoint.damaged(str(error))))
            # Tensors may be half overwritten now. The next checkpoint overwrites all of them, and without one the
            # training ends.
            damaged.append(checkpoint)
            continue
        # Damaged checkpoints are invalidated only once an older one has proved whole: if none is, the user may want to
        # repair them.
        ranks.run_on_all(partial(_discard, damaged, context, args, ranks))
        optimizer.write_back(state.num_updates, state.scalars)
        # `tensors` are the master shards; what the forward pass reads follows from them.
        engine.sync_working_weights()
        return replace(state, note=f"{'; '.join(reasons)}; goes on from step {state.step}" if reasons else "")
    if reasons:
        raise ModelError(
            f"no checkpoint of run {context.config.run!r} is whole ({'; '.join(reasons)}); restore one, "
            f"name another with {args.section}.resume=..., or start anew under another name (run=...)"
        )
    # There was no candidate at all, so the run begins.
    return ResumeState(0, [])


def resume_candidates(store: Store, run: str, args: TrainingArgs) -> list[Checkpoint]:
    """Complete checkpoints to go on from, best first; empty for a run that begins.

    Raises:
        ModelError: The run had checkpoints but they are gone, or `resume` names none.
    """
    # The run's own checkpoints come before the named one: the same command, given again after a crash, goes on and does
    # not start over from `resume`.
    if own := checkpoints.complete_checkpoints(store, run, args.kind)[::-1]:
        with suppress(ModelError):  # the named one is needed only if none of the run's own is whole
            own += [_named_checkpoint(store, args.resume, args.section)] if args.resume else []
        return own
    if args.resume:
        return [_named_checkpoint(store, args.resume, args.section)]
    if gone := checkpoints.latest_name(store, run, args.kind):
        # Training from step 0 would silently throw away what the run had reached.
        pointer = f"checkpoints/{run}/{args.kind}/{checkpoints.LATEST_FILE}"
        raise ModelError(
            f"run {run!r} reached checkpoint {gone}, but {store.uri} no longer holds any {args.kind} checkpoint of it; "
            f"restore it, name one with {args.section}.resume=..., or delete {pointer} to start from step 0"
        )
    return []


def check_resumable(store: Store, config: Config, args: TrainingArgs) -> None:
    """Raise those errors of `resume_training` that the manifests show, before any worker is started."""
    found = resume_candidates(store, config.run, args)
    with suppress(CorruptStateError):  # the workers will take the checkpoint before it
        if found:
            manifest = _read_manifest(found[0])
            refuse_mismatch(found[0], manifest, config, args)
            refuse_finished(found[0], manifest, store, config.run, args)


def read_shard_indexes(store: Store, path: str, names: Iterable[str], sha256: Mapping[str, str]) -> list[ShardIndex]:
    """The indexes of a checkpoint by their file names; CorruptStateError if one is not what `sha256` says."""
    indexes = []
    for name in sorted(names):
        data = store.read(path, name)
        if name in sha256 and hashlib.sha256(data).hexdigest() != sha256[name]:
            raise CorruptStateError(f"{name} is not what was written")
        indexes.append(ShardIndex.from_json(data))
    return indexes


def state_file_reader(store: Store, path: str, file: str) -> RangeReader:
    """Reads byte ranges of a state file where it lies."""

    def read(first: int, length: int) -> bytes:
        with (
            store.io_errors(f"read {path}"),
            store.filesystem.open_input_file(store.path(path, STATE_FOLDER, file)) as stream,
        ):
            return bytes(stream.read_at(length, first))

    return read


def _load_checkpoint(
    checkpoint: Checkpoint, slices: Mapping[str, Sequence[ShardSlice]], tensors: Mapping[str, Sequence[Tensor]],
    context: RunContext, args: TrainingArgs, facts: Mapping[str, Any],
) -> ResumeState:  # fmt: skip
    """Fill `tensors` on this rank; CorruptStateError if the checkpoint is damaged."""
    manifest = _read_manifest(checkpoint)
    refuse_mismatch(checkpoint, manifest, context.config, args, facts)
    refuse_finished(checkpoint, manifest, context.store, context.config.run, args)
    names = [name for name in manifest["files"] if Path(name).match(f"{STATE_FOLDER}/rank-*.json")]
    indexes = read_shard_indexes(checkpoint.store, checkpoint.path, names, manifest.get("sha256", {}))
    if not indexes:
        raise CorruptStateError("it holds no training state")
    shapes = {name: shape for index in indexes for name, shape in index.shapes.items()}
    # FIXED_OPTIONS name most differences in the user's terms; shapes catch what they do not.
    if other := next((piece for piece in slices[WEIGHTS_NAME] if shapes.get(piece.name) != piece.shape), None):
        raise mismatch_error(checkpoint, f"{other.name} is {other.shape}, there {shapes.get(other.name)}")
    files = [(index, state_file_reader(checkpoint.store, checkpoint.path, index.file)) for index in indexes]
    stored = {piece.kind for index in indexes for piece in index.pieces}
    # A run with ema_decay=0 stores no average. If one is wanted from now on, it starts at the weights.
    fresh = [kind for kind in tensors if kind in AVERAGE_NAMES and not stored & set(AVERAGE_NAMES)]
    load_slices({kind: (slices[kind], list(own)) for kind, own in tensors.items() if kind not in fresh}, files)
    for kind in fresh:
        copy_tensors(tensors[kind], tensors[WEIGHTS_NAME])
    return ResumeState(int(manifest["step"]), _read_log_lines(checkpoint), indexes[0].updates, indexes[0].scalars)


def _discard(damaged: Sequence[Checkpoint], context: RunContext, args: TrainingArgs, ranks: DistributedContext) -> None:
    """Invalidate damaged checkpoints, so that retention and generation count only whole ones."""
    if ranks.is_main and run_fencing.owns_run(context.store, context.config.run, args.section, context.owner_token):
        for checkpoint in damaged:
            checkpoints.invalidate(checkpoint)


def _read_manifest(checkpoint: Checkpoint) -> dict[str, Any]:
    try:
        return checkpoint.check()
    except ModelError as error:
        raise CorruptStateError(str(error)) from None


def _read_log_lines(checkpoint: Checkpoint) -> list[training_metrics.MetricsLine]:
    try:
        return training_metrics.parse_log(
            checkpoint.store.read(checkpoint.path, STATE_FOLDER, training_metrics.LOG_FILE).decode()
        )
    except ValueError:
        raise CorruptStateError(f"{training_metrics.LOG_FILE} cannot be read") from None


def _named_checkpoint(store: Store, name: str, section: str) -> Checkpoint:
    """The checkpoint that option `resume` names: a path in the store, or a URI."""
    # The name has one of three forms: a path in this store, a URI below it, or a URI elsewhere, whose parent folder is
    # then opened as a store.
    text = name.rstrip("/")
    if "://" in text or text.startswith("/"):
        inside = text.startswith(f"{store.uri}/")
        folder, _, last = text.rpartition("/")
        store, path = (store, text.removeprefix(f"{store.uri}/")) if inside else (Store(folder), last)
    else:
        path = text
    if not store.exists(path, checkpoints.MANIFEST_FILE):
        raise ModelError(f"{section}.resume={name!r} is no complete checkpoint in {store.uri}; "
                         "give checkpoints/<run>/<kind>/step-..., or its URI")  # fmt: skip
    return Checkpoint(store, path, 0)
