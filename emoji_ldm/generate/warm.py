"""Everything that takes long, done before the first picture is asked for."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from emoji_ldm.generate.draw import Draw
from emoji_ldm.generate.engine import Engine
from emoji_ldm.generate.lane import Cast
from emoji_ldm.generate.lora import with_lora
from emoji_ldm.generate.model import Model
from emoji_ldm.generate.profile import Profile, row_cap
from emoji_ldm.generate.stages import Stages

GAIN = 0.95  # of the time of one pass that two side by side may take
ROUNDS = 5


def casts_of(
    model: Model, loras: Mapping[str, Path], batch_size: int, *, strict: bool, like: Cast | None = None
) -> dict[str, Cast]:
    """A model under the name "" and with each adapter under that one's, ready to draw.

    Args:
        model: What draws.
        loras: Folders of adapters by name.
        batch_size: Most pictures per tick.
        strict: Whether there is one shape for ever.
        like: What drew before, whose measurements hold for a model of the same form too.

    Raises:
        ModelError: An adapter is missing, or does not fit.
    """
    own = settled(model, batch_size, strict=strict, like=like)
    # Adapted weights take as long as the model's own.
    adapted = {name: settled(with_lora(model, folder), batch_size, strict=strict, like=own)
               for name, folder in loras.items()}  # fmt: skip
    return {"": own} | adapted


def settled(model: Model, batch_size: int, *, strict: bool, like: Cast | None = None) -> Cast:
    """A model whose ticks are measured, and settled by that, or as `like` if that has the same form."""
    engine, stages = ready(model, batch_size, strict=strict)
    if like is None or _form(like.engine.model) != _form(model):
        return _measured(engine, stages)
    engine.network.split_from = like.engine.network.split_from
    return Cast(engine, stages, like.profile.copy(), like.cap)


def ready(model: Model, batch_size: int, *, strict: bool) -> tuple[Engine, Stages]:
    """Both with their kernels chosen and captured."""
    engine, stages = Engine(model, batch_size, strict=strict), Stages(model, batch_size, strict=strict)
    engine.network.capture(model.latent_shape, stages.row(Draw("")).positive)
    stages.pictures([torch.zeros(model.latent_shape, device=model.device)])
    return engine, stages


def _form(model: Model) -> Any:
    """What the time of a tick depends on."""
    return model.device, model.latent_shape, {name: part.shape for name, part in model.unet.state_dict().items()}


def _measured(engine: Engine, stages: Stages) -> Cast:
    """Every number of pictures that doubles is timed, in turns, as the machine's load may change meanwhile."""
    network, most, shape = engine.network, engine.batch_size, engine.model.latent_shape
    sizes = sorted({min(1 << power, most) for power in range(most.bit_length() + 1)})
    costs = {size: engine.cost(size, size, shape) for size in sizes}
    same = {cost: size for size, cost in costs.items()}  # in strict mode many sizes are padded to one
    one, two = network.most + 1, network.split_from  # of passes
    ways = sorted({two} if network.strict else {one, two})
    rounds = _rounds(engine, stages, [(way, size) for way in ways for size in same.values()])
    # Two passes must gain something at each size from there on.
    slow = [
        size
        for size in sizes
        if len(ways) > 1 and median(times[two, size] / times[one, size] for times in rounds) > GAIN
    ]
    network.split_from = 2 * max(slow) + 2 if slow else two
    chosen = {size: one if slow and size <= max(slow) else two for size in sizes}
    best = [{size: times[chosen[size], same[costs[size]]] for size in sizes} for times in rounds]
    seconds = {costs[size]: median(times[size] for times in best) for size in sizes}
    return Cast(engine, stages, Profile(seconds), most if network.strict else row_cap(best))


def _rounds(engine: Engine, stages: Stages, timed: Sequence[tuple[int, int]]) -> list[dict[tuple[int, int], float]]:
    """Seconds of ticks by (rows from which on there are two passes, pictures), several times."""
    for way, size in timed:
        _tick_s(engine, stages, size, way)  # to warm up
    count = 2 if engine.network.strict else ROUNDS  # nothing is chosen in strict mode
    rounds = [{key: _tick_s(engine, stages, key[1], key[0]) for key in timed} for _ in range(count)]
    engine.clock.reset()
    return rounds


def _tick_s(engine: Engine, stages: Stages, size: int, split_from: int) -> float:
    """Seconds of a tick of so many guided pictures."""
    engine.network.split_from = split_from
    rows = [stages.row(Draw("", steps=1, guidance_scale=2)) for _ in range(size)]
    began = time.perf_counter()
    engine.tick(rows)
    if engine.model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began
