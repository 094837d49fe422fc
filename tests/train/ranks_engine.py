"""What ranks of the engine tests run: functions at the top level of a module, as `Ranks` wants."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from emoji_ldm.train.engine import Engine, build_engine
from emoji_ldm.train.plan import Plan
from emoji_ldm.train.world import World, current

BATCH = 12  # samples per step; 1, 2, 3 and 4 ranks divide it


def plan(**options: Any) -> Plan:
    numbers = {"steps": 10, "batch_size": BATCH, "lr": 1e-2, "seed": 0, "checkpoint_every": 10, "grad_clip": 1e9}
    return Plan(section="train", kind="unet", **{**numbers, **options})


def network() -> nn.Module:
    """Convolutions and norms of odd sizes, so that parameters straddle the bounds of shards."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 7, 3, padding=1), nn.GroupNorm(7, 7), nn.SiLU(), nn.Conv2d(7, 5, 3, padding=1), nn.SiLU(),
        nn.Flatten(), nn.Linear(80, 1),
    )  # fmt: skip


def samples(step: int) -> Tensor:
    """`(BATCH, 3, 4, 4)`, the same on every rank."""
    return torch.randn(BATCH, 3, 4, 4, generator=torch.Generator().manual_seed(step))


def world() -> World:
    return current(torch.device("cpu"))


def train(engine: Engine, here: World, steps: int = 3, parts: int = 1, limit: float = float("inf")) -> list[float]:
    """Steps on this rank's share of the samples, each in `parts` micro-batches; the gradient norms."""
    norms = []
    for step in range(steps):
        micro = samples(step).chunk(here.size)[here.rank].chunk(parts)
        for number, part in enumerate(micro, 1):
            engine.accumulate((engine.forward(part) - part.mean()).square().mean(), last=number == parts)
        norms.append(float(engine.step(1e-2, limit)))
    return norms


def whole(engine: Engine, tensors: list[Tensor], here: World) -> dict[str, Tensor]:
    """Named tensors put together from every rank's pieces."""
    mine = [(piece, tensors[piece.shard].flatten()[piece.offset : piece.offset + piece.length].clone())
            for piece in engine.pieces()]  # fmt: skip
    ranks: list[Any] = [mine] * here.size
    if here.size > 1:
        torch.distributed.all_gather_object(ranks, mine)
    found: dict[str, Tensor] = {}
    for piece, values in (entry for rank in ranks for entry in rank):
        flat = found.setdefault(piece.name, torch.full(piece.shape, float("nan"))).view(-1)
        flat[piece.start : piece.start + piece.length] = values
    return found


def pieces_against_deepspeed(stage: int, precision: str) -> tuple[bool, bool]:
    """Whether assembled shards equal DeepSpeed's own gathering, and whether working weights follow the shards."""
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    here = world()
    module = network()
    engine = build_engine(module, plan(zero_stage=stage, precision=precision), here)
    train(engine, here)
    ours = whole(engine, engine.shards(), here)
    named = dict(module.named_parameters())
    theirs = {name: parameter.detach() if stage == 0 else safe_get_full_fp32_param(parameter)
              for name, parameter in named.items()}  # fmt: skip
    same = ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    for shard in engine.shards():
        shard.mul_(2)
    engine.refresh()
    with deepspeed.zero.GatheredParameters(list(named.values()), enabled=stage == 3):
        follow = all(torch.equal(value, (2 * ours[name]).to(value.dtype)) for name, value in named.items())
    return same, follow
