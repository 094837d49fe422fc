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


def casts_of(model: Model, loras: Mapping[str, Path], batch_size: int, *, strict: bool) -> dict[str, Cast]:
    """A model under the name "" and with each adapter under that one's, ready to draw.

    Raises:
        ModelError: An adapter is missing, or does not fit.
    """
    own = cast_of(model, batch_size, strict=strict)
    if not loras:
        return {"": own}
    # Adapted weights take as long as the model's own.
    adapted = {name: with_lora(model, folder) for name, folder in loras.items()}
    return {"": own} | {
        name: Cast(Engine(found, batch_size, strict=strict), Stages(found, batch_size, strict=strict),
                   own.profile.scaled(1), own.cap)
        for name, found in adapted.items()
    }  # fmt: skip


def cast_of(model: Model, batch_size: int, *, strict: bool) -> Cast:
    """A model made ready: each shape that its ticks take was run, and timed."""
    engine, stages = Engine(model, batch_size, strict=strict), Stages(model, batch_size, strict=strict)
    blank = Draw("", steps=1, guidance_scale=2)
    stages.pictures([torch.zeros(model.latent_shape, device=model.device)], [blank])
    sizes = sorted({min(1 << power, batch_size) for power in range(batch_size.bit_length() + 1)})
    seconds = {size: _tick_s(engine, stages, [blank] * size) for size in sizes}
    by_cost = {engine.cost(size, size): value for size, value in seconds.items()}
    return Cast(engine, stages, Profile(by_cost), batch_size if strict else row_cap(seconds))


def _tick_s(engine: Engine, stages: Stages, draws: list[Draw]) -> float:
    """Seconds of a tick: the better of two, after one to warm up."""
    seconds = []
    for _ in range(3):
        rows = [stages.row(draw) for draw in draws]
        began = time.perf_counter()
        engine.tick(rows)
        if engine.model.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])
