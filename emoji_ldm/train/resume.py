"""Go on from a checkpoint, whatever the ranks and the ZeRO stage that wrote it.

1. candidates: the run's complete checkpoints, newest first; then the one that `resume` names
2. refuse: another network, objective, codec or text encoder than the configuration's is an error that names it
3. load: every rank reads the elements that its own shards hold; a damaged checkpoint gives way to the one before

Values are fp32 and copied as they are, so a run that resumes with as many ranks goes on bit by bit; with 8-bit moments
(`optimizer=adamw8bit`) but for the rounding of their scales.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from emoji_ldm import __version__
from emoji_ldm.config import Config
from emoji_ldm.dataset import checkpoints
from emoji_ldm.dataset.checkpoints import Checkpoint
from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.model.ema import AVERAGE_NAMES, WEIGHTS_NAME, WeightAverages
from emoji_ldm.store import Store
from emoji_ldm.train import run_fencing
from emoji_ldm.train.engines.distributed import DistributedContext
from emoji_ldm.train.engines.optimizer import AdamMoments
from emoji_ldm.train.engines.sharded_state import CorruptStateError, RangeReader, ShardIndex, ShardSlice, load_slices
from emoji_ldm.train.engines.training_engine import TrainingEngine
from emoji_ldm.train.metrics import training_metrics
from emoji_ldm.train.training_args import RunContext, TrainingArgs

STATE_FOLDER = "state"  # folder of a checkpoint that only training reads

# Options that decide what the tensors of a checkpoint are or mean.
FIXED_OPTIONS = (
    "kind", "init", "block_out_channels", "attention", "layers_per_block", "num_heads", "latent_channels", "trainable_pattern",
    "lora_rank", "lora_alpha", "lora_targets", "train_text_encoder", "prediction_type", "beta_start", "beta_end",
    "zero_terminal_snr", "ema_widths",
)  # fmt: skip

# Facts of a task that decide it too, and what a user knows them by.
FIXED_FACTS = {
    "codec_key": "the codec (latents.vae)", "encoder_key": "the text encoder (latents.text_encoder)",
    "scaling_factor": "the codec's scaling factor", "base_key": "the network of train.init",
}  # fmt: skip


@dataclass(frozen=True)
class ResumeState:
    """Where a training goes on."""

    step: int
    lines: Sequence[training_metrics.MetricsLine]  # the log up to there
    updates: int = 0  # of Adam: steps, less those that were skipped
    note: str = ""  # for the user: which damaged checkpoints were passed over


def checkpoint_tensors(
    engine: TrainingEngine, averages: WeightAverages, moments: AdamMoments
) -> dict[str, Sequence[Tensor]]:
    """All that a checkpoint holds, in tensors of the shards' shapes."""
    return {WEIGHTS_NAME: engine.shards(), **moments.tensors, **averages.tensors}


def resume_training(
    engine: TrainingEngine, averages: WeightAverages, place: RunContext, plan: TrainingArgs, world: DistributedContext, facts: Mapping[str, Any]
) -> ResumeState:  # fmt: skip
    """Bring weights, moments and averages to the newest whole checkpoint, or to the start; a collective.

    `facts` are the task's, which must be those of the checkpoint as far as `KEYS` says.

    Raises:
        ConfigError: The checkpoint that `resume` names leaves nothing to train.
        ModelError: The checkpoint is of another network or objective, or there should be one but none is whole.
    """
    moments = AdamMoments(engine.optimizer, engine.states())
    moments.commit(0)  # ZeRO makes an empty step while it is built
    kinds = checkpoint_tensors(engine, averages, moments)
    found = world.agree(lambda: resume_candidates(place.store, place.config.run, plan) if world.leads else None)
    reasons: list[str] = []
    passed: list[Checkpoint] = []
    for checkpoint in world.share(found):
        try:
            state = world.agree(partial(_load_checkpoint, checkpoint, engine.pieces(), kinds, place, plan, facts))
        except CorruptStateError as error:
            reasons.append(str(error) if checkpoint.uri in str(error) else str(checkpoint.damaged(str(error))))
            passed.append(checkpoint)
            continue
        world.agree(partial(_discard, passed, place, plan, world))
        moments.commit(state.updates)
        engine.refresh()
        return replace(state, note=f"{'; '.join(reasons)}; goes on from step {state.step}" if reasons else "")
    if reasons:
        raise ModelError(
            f"no checkpoint of run {place.config.run!r} is whole ({'; '.join(reasons)}); "
            f"bring one back, name another with {plan.section}.resume=..., or start anew under another name (run=...)"
        )
    return ResumeState(0, [])


def resume_candidates(store: Store, run: str, plan: TrainingArgs) -> list[Checkpoint]:
    """Complete checkpoints to go on from, best first; empty for a run that begins.

    Raises:
        ModelError: The run had checkpoints but they are gone, or `resume` names none.
    """
    if own := checkpoints.complete_checkpoints(store, run, plan.kind)[::-1]:
        with suppress(ModelError):  # it is needed only if none of the own ones is whole
            own += [_named_checkpoint(store, plan)] if plan.resume else []
        return own
    if plan.resume:
        return [_named_checkpoint(store, plan)]
    if gone := checkpoints.latest_name(store, run, plan.kind):
        pointer = f"checkpoints/{run}/{plan.kind}/{checkpoints.LATEST_FILE}"
        raise ModelError(
            f"run {run!r} reached checkpoint {gone}, but {store.uri} holds no {plan.kind} checkpoint of it any more; "
            f"bring it back, name one with {plan.section}.resume=..., or delete {pointer} to start from step 0"
        )
    return []


def manifest_facts(place: RunContext, plan: TrainingArgs) -> dict[str, Any]:
    """What the manifest tells of how the checkpoint came to be."""
    return {"config": place.config.model_dump(mode="json"), "zero_stage": plan.zero_stage, "code": __version__}


def check_resumable(store: Store, config: Config, plan: TrainingArgs) -> None:
    """Raise the errors of `resume` that manifests tell: before anything is started."""
    found = resume_candidates(store, config.run, plan)
    with suppress(CorruptStateError):  # workers look for the one before
        if found:
            manifest = _read_manifest(found[0])
            refuse_mismatch(found[0], manifest, config, plan)
            refuse_finished(found[0], manifest, store, config.run, plan)


def refuse_mismatch(
    checkpoint: Checkpoint, manifest: Mapping[str, Any], config: Config, plan: TrainingArgs,
    facts: Mapping[str, Any] = MappingProxyType({}),
) -> None:  # fmt: skip
    """Raise ModelError if what the checkpoint's tensors depend on differs from what they were trained with.

    Args:
        checkpoint: Where the manifest lies.
        manifest: Its own.
        config: Gives the options that are compared.
        plan: Its section of them.
        facts: The task's, where it is built already; see `KEYS`.
    """
    theirs = manifest.get("config", {}).get(plan.section, {})
    ours = config.model_dump(mode="json")[plan.section]
    differ = [name for name in FIXED_OPTIONS if name in ours and name in theirs and ours[name] != theirs[name]]
    told = [f"{plan.section}.{name} is {ours[name]!r}, there {theirs[name]!r}" for name in differ]
    told += [f"{words} is {facts[name]!r}, there {manifest[name]!r}" for name, words in FIXED_FACTS.items()
             if name in facts and name in manifest and facts[name] != manifest[name]]  # fmt: skip
    if told:
        raise _mismatch_error(checkpoint, "; ".join(told))


def refuse_finished(
    checkpoint: Checkpoint, manifest: Mapping[str, Any], store: Store, run: str, plan: TrainingArgs
) -> None:
    """Raise ConfigError if a checkpoint that is not the run's own is at the last step: it would have nothing to do."""
    own = checkpoint.store == store and checkpoint.path.startswith(f"checkpoints/{run}/{plan.kind}/")
    if int(manifest["step"]) >= plan.steps and not own:
        raise ConfigError(
            f"{plan.section}.resume names a checkpoint of step {manifest['step']}, and {plan.section}.steps="
            f"{plan.steps} leaves nothing to train; raise {plan.section}.steps"
        )


def read_shard_indexes(store: Store, path: str, names: Iterable[str], sha256: Mapping[str, str]) -> list[ShardIndex]:
    """The marks of a checkpoint by their names in it; Damaged if one is not what `sha256` says."""
    marks = []
    for name in sorted(names):
        data = store.read(path, name)
        if name in sha256 and hashlib.sha256(data).hexdigest() != sha256[name]:
            raise CorruptStateError(f"{name} is not what was written")
        marks.append(ShardIndex.parse(data))
    return marks


def state_file_reader(store: Store, path: str, file: str) -> RangeReader:
    """Reads ranges of a state file where it lies."""

    def read(first: int, length: int) -> bytes:
        with (
            store.reaching(f"read {path}"),
            store.filesystem.open_input_file(store.path(path, STATE_FOLDER, file)) as stream,
        ):
            return bytes(stream.read_at(length, first))

    return read


def _load_checkpoint(
    checkpoint: Checkpoint, pieces: Sequence[ShardSlice], kinds: Mapping[str, Sequence[Tensor]], place: RunContext, plan: TrainingArgs,
    facts: Mapping[str, Any],
) -> ResumeState:  # fmt: skip
    manifest = _read_manifest(checkpoint)
    refuse_mismatch(checkpoint, manifest, place.config, plan, facts)
    refuse_finished(checkpoint, manifest, place.store, place.config.run, plan)
    names = [name for name in manifest["files"] if Path(name).match(f"{STATE_FOLDER}/rank-*.json")]
    marks = read_shard_indexes(checkpoint.store, checkpoint.path, names, manifest.get("sha256", {}))
    if not marks:
        raise CorruptStateError("it holds no training state")
    shapes = {name: shape for mark in marks for name, shape in mark.shapes.items()}
    if other := next((piece for piece in pieces if shapes.get(piece.name) != piece.shape), None):
        raise _mismatch_error(checkpoint, f"{other.name} is {other.shape}, there {shapes.get(other.name)}")
    files = [(mark, state_file_reader(checkpoint.store, checkpoint.path, mark.file)) for mark in marks]
    held = {stored.kind for mark in marks for stored in mark.pieces}
    begins = [
        kind for kind in kinds if kind in AVERAGE_NAMES and not held & set(AVERAGE_NAMES)
    ]  # it was trained with ema_decay=0
    load_slices({kind: (pieces, tensors) for kind, tensors in kinds.items() if kind not in begins}, files)
    for kind in begins:
        torch._foreach_copy_(list(kinds[kind]), list(kinds[WEIGHTS_NAME]))
    return ResumeState(int(manifest["step"]), _read_log_lines(checkpoint), marks[0].updates)


def _discard(damaged: Sequence[Checkpoint], place: RunContext, plan: TrainingArgs, world: DistributedContext) -> None:
    """Retention must not count them in place of whole ones, nor generation take them for the newest."""
    if world.leads and run_fencing.owns_run(place.store, place.config.run, plan.section, place.owner):
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


def _named_checkpoint(store: Store, plan: TrainingArgs) -> Checkpoint:
    """The checkpoint of `resume`: a path in the store, or a URI."""
    text = plan.resume.rstrip("/")
    if "://" in text or text.startswith("/"):
        inside = text.startswith(f"{store.uri}/")
        folder, _, name = text.rpartition("/")
        store, path = (store, text.removeprefix(f"{store.uri}/")) if inside else (Store(folder), name)
    else:
        path = text
    if not store.exists(path, checkpoints.MANIFEST_FILE):
        raise ModelError(f"{plan.section}.resume={plan.resume!r} is no complete checkpoint in {store.uri}; "
                         "give checkpoints/<run>/<kind>/step-..., or its URI")  # fmt: skip
    return Checkpoint(store, path, 0)


def _mismatch_error(checkpoint: Checkpoint, told: str) -> ModelError:
    return ModelError(
        f"checkpoint {checkpoint.uri} is of another network or objective ({told}); "
        "set it back, or train under another name (run=...)"
    )
