"""Everything that takes long, done before the first picture is asked for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import torch

from emoji_ldm.generate.draw import Draw
from emoji_ldm.generate.engine import Engine
from emoji_ldm.generate.lane import Cast
from emoji_ldm.generate.lora import with_lora
from emoji_ldm.generate.model import Model
from emoji_ldm.generate.profile import Profile, row_cap
from emoji_ldm.generate.stages import Stages

GAIN = 0.95  # of the time of one pass that two side by side may take


def casts_of(model: Model, loras: Mapping[str, Path], batch_size: int, *, strict: bool) -> dict[str, Cast]:
    """A model under the name "" and with each adapter under that one's, ready to draw.

    Raises:
        ModelError: An adapter is missing, or does not fit.
    """
    own = _measured(*_ready(model, batch_size, strict))
    adapted = {name: _ready(with_lora(model, folder), batch_size, strict) for name, folder in loras.items()}
    for engine, _ in adapted.values():
        engine.network.split_from = own.engine.network.split_from
    # Adapted weights take as long as the model's own.
    return {"": own} | {name: Cast(*parts, own.profile.copy(), own.cap) for name, parts in adapted.items()}


def _ready(model: Model, batch_size: int, strict: bool) -> tuple[Engine, Stages]:
    """Both with their kernels chosen and captured."""
    engine, stages = Engine(model, batch_size, strict=strict), Stages(model, batch_size, strict=strict)
    engine.network.capture(model.latent_shape, stages.row(Draw("")).positive)
    stages.pictures([torch.zeros(model.latent_shape, device=model.device)])
    return engine, stages


def _measured(engine: Engine, stages: Stages) -> Cast:
    """Every number of pictures that doubles is timed."""
    sizes = sorted({min(1 << power, engine.batch_size) for power in range(engine.batch_size.bit_length() + 1)})
    network = engine.network
    ways = [network.split_from] if network.strict else sorted({network.split_from, network.most + 1})
    times = {way: {size: _tick_s(engine, stages, size, way) for size in sizes} for way in ways}
    # Two passes must gain something at each size from there on.
    slow = [size for size in sizes if times[ways[0]][size] > GAIN * times[ways[-1]][size]]
    network.split_from = 2 * max(slow, default=0) + 2 if len(ways) > 1 else ways[0]
    best = {size: min(times[way][size] for way in ways) for size in sizes}
    profile = Profile({engine.cost(size, size): seconds for size, seconds in best.items()})
    return Cast(engine, stages, profile, engine.batch_size if network.strict else row_cap(best))


def _tick_s(engine: Engine, stages: Stages, size: int, split_from: int) -> float:
    """Seconds of a tick of so many guided pictures: the best of three, after one to warm up."""
    engine.network.split_from, seconds = split_from, []
    for _ in range(4):
        rows = [stages.row(Draw("", steps=1, guidance_scale=2)) for _ in range(size)]
        began = time.perf_counter()
        engine.tick(rows)
        if engine.model.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])
