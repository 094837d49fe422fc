"""What a user is told where a training goes on: from which checkpoint, what was passed over, what is done again."""

from __future__ import annotations

import json
from contextlib import suppress

from emoji_ldm.dataset import checkpoints
from emoji_ldm.errors import StoreError
from emoji_ldm.progress import format_duration
from emoji_ldm.store import Store
from emoji_ldm.train.metrics import training_metrics
from emoji_ldm.train.training_args import RunContext, TrainingArgs


def resume_note(context: RunContext, args: TrainingArgs, step: int, damaged: str) -> str:
    """One line about a training that goes on after `step` steps; empty for one that begins.

    It is called before the first line of the new log is written, since the old log tells how far the run had come.

    Args:
        context: The run and its store.
        args: The section and the kind of its checkpoints.
        step: Where the training goes on; 0 if there was no checkpoint.
        damaged: What is known already about damaged checkpoints, and from where it goes on instead; may be empty.
    """
    store, run = context.store, context.config.run
    lost = _repeated_work(store, run, args.section, step)
    unfinished = [
        name for name in checkpoints.unfinished_folders(store, run, args.kind, after=step) if name not in damaged
    ]
    if not (step or lost or unfinished):
        return ""
    parts = [damaged or (f"goes on from step {step}{_name(store, run, args, step)}" if step else "starts from step 0")]
    parts += [f"{name} is unfinished and not used, as its save was interrupted" for name in unfinished]
    return "; ".join([*parts, *([lost] if lost else [])])


def _name(store: Store, run: str, args: TrainingArgs, step: int) -> str:
    """The name of the run's checkpoint after so many steps; of one that `resume` names, what was named."""
    own = [one for one in checkpoints.complete_checkpoints(store, run, args.kind) if one.step == step]
    named = own[-1].path.rpartition("/")[2] if own else args.resume
    return f" ({named})" if named else ""


def _repeated_work(store: Store, run: str, section: str, step: int) -> str:
    """How much an interruption cost: the steps and the time that the old log has after the checkpoint."""
    lines: list[training_metrics.MetricsLine] = []
    # The log is for people: a damaged one costs them this sentence and not the training.
    with suppress(StoreError, json.JSONDecodeError):
        lines = training_metrics.read_log(store, run, section)
    if not lines or lines[-1]["step"] <= step:
        return ""
    before = [line["time_s"] for line in lines if line["step"] <= step]
    seconds = lines[-1]["time_s"] - (before[-1] if before else 0.0)
    return f"{lines[-1]['step'] - step} steps after it are done again ({format_duration(seconds)} of work)"
