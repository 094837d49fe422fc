"""Everything that takes long, done before the first picture is asked for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median

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
    """Every number of pictures that doubles is timed, in turns, as the machine's load may change meanwhile."""
    network, most = engine.network, engine.batch_size
    sizes = sorted({min(1 << power, most) for power in range(most.bit_length() + 1)})
    one, two = network.most + 1, network.split_from  # of passes
    ways = sorted({two} if network.strict else {one, two})
    timed = [(way, size) for way in ways for size in sizes]
    for way, size in timed:
        _tick_s(engine, stages, size, way)  # to warm up
    rounds = [{key: _tick_s(engine, stages, key[1], key[0]) for key in timed} for _ in range(ROUNDS)]
    # Two passes must gain something at each size from there on.
    slow = [
        size
        for size in sizes
        if len(ways) > 1 and median(times[two, size] / times[one, size] for times in rounds) > GAIN
    ]
    network.split_from = 2 * max(slow) + 2 if slow else two
    chosen = {size: one if slow and size <= max(slow) else two for size in sizes}
    best = [{size: times[chosen[size], size] for size in sizes} for times in rounds]
    seconds = {engine.cost(size, size): median(times[size] for times in best) for size in sizes}
    return Cast(engine, stages, Profile(seconds), most if network.strict else row_cap(best))


def _tick_s(engine: Engine, stages: Stages, size: int, split_from: int) -> float:
    """Seconds of a tick of so many guided pictures."""
    engine.network.split_from = split_from
    rows = [stages.row(Draw("", steps=1, guidance_scale=2)) for _ in range(size)]
    began = time.perf_counter()
    engine.tick(rows)
    if engine.model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began
