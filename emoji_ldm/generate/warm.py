"""Everything that takes long, done before the first picture is asked for."""

from __future__ import annotations

import time

import torch

from emoji_ldm.generate.draw import Draw
from emoji_ldm.generate.engine import Engine
from emoji_ldm.generate.lanes import Cast
from emoji_ldm.generate.model import Model
from emoji_ldm.generate.profile import Profile, row_cap
from emoji_ldm.generate.stages import Stages


def cast_of(model: Model, batch_size: int, strict: bool) -> Cast:
    """A model made ready: every shape that its ticks take was run, and timed."""
    engine, stages = Engine(model, batch_size, strict=strict), Stages(model, batch_size, strict=strict)
    stages.pictures([torch.zeros(model.latent_shape, device=model.device)])
    sizes = sorted({min(1 << power, batch_size) for power in range(batch_size.bit_length() + 1)})
    by_pictures = {size: _tick_s(engine, stages, size) for size in sizes}
    seconds = {engine.cost_of(size, size): value for size, value in by_pictures.items()}
    return Cast(engine, stages, Profile(seconds), batch_size if strict else row_cap(by_pictures))


def _tick_s(engine: Engine, stages: Stages, size: int) -> float:
    """Seconds of a tick of `size` guided rows: the better of two, after one to warm up."""
    seconds = []
    for _ in range(3):
        rows = [stages.row(Draw("", steps=1, guidance_scale=2.0)) for _ in range(size)]
        began = time.perf_counter()
        engine.tick(rows)
        if engine.model.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])
