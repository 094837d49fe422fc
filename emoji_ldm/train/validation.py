"""The loss on images held out, with the same noise each time."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from emoji_ldm.train.engine import Engine
from emoji_ldm.train.plan import Task
from emoji_ldm.train.world import World


@torch.no_grad()
def validate(task: Task, engine: Engine, world: World, parts: Sequence[range]) -> dict[str, float]:
    """`{"validation_loss": ...}` over all ranks, empty if nothing is held out; a collective."""
    losses = [task.loss(engine.forward, drawn) for part in parts for drawn in task.held_out(part)]
    if not losses:
        return {}
    return {"validation_loss": float(world.mean(torch.stack(losses).mean()))}
