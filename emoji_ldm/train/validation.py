"""The loss on images held out, with the same noise each time: of the weights, and of their moving average."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from emoji_ldm.model.ema import NAMES, Averages
from emoji_ldm.train.engine import Engine
from emoji_ldm.train.plan import Task
from emoji_ldm.train.world import World


@torch.no_grad()
def validate(
    task: Task, engine: Engine, averages: Averages, world: World, parts: Sequence[range]
) -> dict[str, float]:  # fmt: skip
    """`validation_loss` and `validation_loss_ema`, the mean over the images held out; a collective.

    Each image counts once, with noise of its own, so that ranks and micro-batches change nothing but rounding.
    The latter is left out where no average is kept. Empty if nothing is held out.
    """

    def measured() -> float | None:
        return _mean_loss(task, engine, world, (drawn for part in parts for drawn in task.held_out(part)))

    own = measured()
    if own is None:
        return {}
    found = {"validation_loss": own}
    if averages.tensors:
        with working_with(engine, averages.tensors[NAMES[0]]):
            found["validation_loss_ema"] = measured() or 0.0
    return found


@contextmanager
def working_with(engine: Engine, tensors: Sequence[Tensor]) -> Iterator[None]:
    """Let the module compute with shard-shaped `tensors` in place of its weights; costs a copy of the local shards."""
    shards = engine.shards()
    own = [shard.clone() for shard in shards]
    _put(engine, shards, tensors)
    try:
        yield
    finally:
        _put(engine, shards, own)


def _put(engine: Engine, shards: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    torch._foreach_copy_(list(shards), list(tensors))
    engine.refresh()


def _mean_loss(task: Task, engine: Engine, world: World, batches: Iterable[Any]) -> float | None:
    """The mean over batches, drawn one at a time, and ranks; None without any."""
    losses = [task.loss(engine.forward, drawn).double() for drawn in batches]
    return float(world.mean(torch.stack(losses).mean())) if losses else None
