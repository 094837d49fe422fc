"""How long a tick takes by the number of network rows it computes: measured at the start, kept up to date after.

Everything that takes long, done before the first picture is asked for.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from emoji_ldm.generate.denoising_engine import DenoisingEngine
from emoji_ldm.generate.encode_decode import EncoderDecoder
from emoji_ldm.generate.pipeline_loader import LatentDiffusionModel, with_lora
from emoji_ldm.generate.request import GenerationRequest, LatentShape

MAX_RELATIVE_COST = (
    1.05  # a row may cost this much more than one of the fullest tick before a larger batch is worth its wait
)
PROFILE_SMOOTHING = 0.1  # weight of a new measurement


class LatencyProfile:
    """Seconds of a tick t(n)."""

    def __init__(self, seconds: Mapping[int, float]) -> None:
        """Begin with measurements, at least one."""
        self._seconds = dict(sorted(seconds.items()))

    def observe(self, rows: int, seconds: float) -> None:
        """Take a measurement in; outliers, such as a pause of the machine, count a little only."""
        before = self._seconds.get(rows)
        if before is None:
            self._seconds = dict(sorted({**self._seconds, rows: seconds}.items()))
        else:
            self._seconds[rows] += PROFILE_SMOOTHING * (min(seconds, 3 * before) - before)

    def seconds(self, rows: int) -> float:
        """Predicted seconds of a tick of so many network rows: on the line between the nearest measured sizes."""
        sizes = list(self._seconds)
        place = bisect_left(sizes, rows)
        if place == len(sizes):
            return self._seconds[sizes[-1]] * rows / sizes[-1]
        if sizes[place] == rows or place == 0:
            return self._seconds[sizes[place]]
        low, high = sizes[place - 1], sizes[place]
        share = (rows - low) / (high - low)
        return (1 - share) * self._seconds[low] + share * self._seconds[high]

    def copy(self) -> LatencyProfile:
        """As it is now, to go its own way."""
        return self.scaled(1)

    def scaled(self, factor: float) -> LatencyProfile:
        """A first guess for larger or smaller pictures."""
        return LatencyProfile({rows: factor * seconds for rows, seconds in self._seconds.items()})


def efficient_batch_size(rounds: Sequence[Mapping[int, float]]) -> int:
    """The smallest number of pictures per tick at which one costs about as little as in the fullest tick.

    Args:
        rounds: Seconds of a tick by pictures in it, each round measured at once: only its own times are compared.
    """
    fullest = max(rounds[0])
    costs = {size: median((times[size] / size) / (times[fullest] / fullest) for times in rounds) for size in rounds[0]}
    return min(size for size, cost in costs.items() if cost <= MAX_RELATIVE_COST)


MAX_SPLIT_COST = 0.95  # of the time of one pass that two side by side may take
NUM_ROUNDS = 5


def warm_up_with_adapters(
    model: LatentDiffusionModel,
    loras: Mapping[str, Path],
    batch_size: int,
    *,
    strict: bool,
    like: LoadedModel | None = None,
) -> dict[str, LoadedModel]:
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
    own = warm_up(model, batch_size, strict=strict, like=like)
    # Adapted weights take as long as the model's own.
    adapted = {name: warm_up(with_lora(model, folder), batch_size, strict=strict, like=own)
               for name, folder in loras.items()}  # fmt: skip
    return {"": own} | adapted


def warm_up(
    model: LatentDiffusionModel, batch_size: int, *, strict: bool, like: LoadedModel | None = None
) -> LoadedModel:
    """A model whose ticks are measured, and settled by that, or as `like` if that has the same form."""
    engine, stages = prepare_engine(model, batch_size, strict=strict)
    if like is None or _timing_key(like.engine.model) != _timing_key(model):
        return _measure(engine, stages)
    engine.network.split_from = like.engine.network.split_from
    return LoadedModel(engine, stages, like.profile.copy(), like.cap)


def prepare_engine(
    model: LatentDiffusionModel, batch_size: int, *, strict: bool
) -> tuple[DenoisingEngine, EncoderDecoder]:
    """Both with their kernels chosen and captured."""
    engine, stages = DenoisingEngine(model, batch_size, strict=strict), EncoderDecoder(model, batch_size, strict=strict)
    engine.network.capture(model.latent_shape, stages.row(GenerationRequest("")).positive)
    stages.pictures([torch.zeros(model.latent_shape, device=model.device)])
    return engine, stages


def _timing_key(model: LatentDiffusionModel) -> Any:
    """What the time of a tick depends on."""
    return model.device, model.latent_shape, {name: part.shape for name, part in model.unet.state_dict().items()}


def _measure(engine: DenoisingEngine, stages: EncoderDecoder) -> LoadedModel:
    """Every number of pictures that doubles is timed, in turns, as the machine's load may change meanwhile."""
    network, most, shape = engine.network, engine.batch_size, engine.model.latent_shape
    sizes = sorted({min(1 << power, most) for power in range(most.bit_length() + 1)})
    costs = {size: engine.cost(size, size, shape) for size in sizes}
    same = {cost: size for size, cost in costs.items()}  # in strict mode many sizes are padded to one
    one, two = network.most + 1, network.split_from  # of passes
    ways = sorted({two} if network.strict else {one, two})
    rounds = _time_rounds(engine, stages, [(way, size) for way in ways for size in same.values()])
    # Two passes must gain something at each size from there on.
    slow = [
        size
        for size in sizes
        if len(ways) > 1 and median(times[two, size] / times[one, size] for times in rounds) > MAX_SPLIT_COST
    ]
    network.split_from = 2 * max(slow) + 2 if slow else two
    chosen = {size: one if slow and size <= max(slow) else two for size in sizes}
    best = [{size: times[chosen[size], same[costs[size]]] for size in sizes} for times in rounds]
    seconds = {costs[size]: median(times[size] for times in best) for size in sizes}
    return LoadedModel(engine, stages, LatencyProfile(seconds), most if network.strict else efficient_batch_size(best))


def _time_rounds(
    engine: DenoisingEngine, stages: EncoderDecoder, timed: Sequence[tuple[int, int]]
) -> list[dict[tuple[int, int], float]]:
    """Seconds of ticks by (rows from which on there are two passes, pictures), several times."""
    for way, size in timed:
        _tick_s(engine, stages, size, way)  # to warm up
    count = 2 if engine.network.strict else NUM_ROUNDS  # nothing is chosen in strict mode
    rounds = [{key: _tick_s(engine, stages, key[1], key[0]) for key in timed} for _ in range(count)]
    engine.clock.reset()
    return rounds


def _tick_s(engine: DenoisingEngine, stages: EncoderDecoder, size: int, split_from: int) -> float:
    """Seconds of a tick of so many guided pictures."""
    engine.network.split_from = split_from
    rows = [stages.row(GenerationRequest("", steps=1, guidance_scale=2)) for _ in range(size)]
    began = time.perf_counter()
    engine.tick(rows)
    if engine.model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


@dataclass(eq=False)
class LoadedModel:
    """One set of weights with all that draws with it."""

    engine: DenoisingEngine
    stages: EncoderDecoder
    profile: LatencyProfile  # at the model's own shape
    cap: int  # pictures per tick
    paces: dict[LatentShape, ShapeProfile] = field(default_factory=dict)  # what was learned of each shape

    def pace(self, shape: LatentShape) -> ShapeProfile:
        """That of a shape, at first a guess: larger pictures take as much more time and room as they have cells."""
        if shape not in self.paces:
            cells, own = math.prod(shape), math.prod(self.stages.model.latent_shape)
            profile = self.profile if cells == own else self.profile.scaled(cells / own)
            self.paces[shape] = ShapeProfile(profile, min(self.cap, self.engine.most(shape)))
        return self.paces[shape]


@dataclass
class ShapeProfile:
    """How rows of one shape move."""

    profile: LatencyProfile
    cap: int  # pictures per tick
