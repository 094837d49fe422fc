"""Warm-up: choosing kernels, capturing CUDA graphs and measuring ticks before the first request arrives."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from emoji_ldm.generate.denoising_engine import DenoisingEngine
from emoji_ldm.generate.encode_decode import EncoderDecoder
from emoji_ldm.generate.latency_model import LatencyProfile, efficient_batch_size
from emoji_ldm.generate.pipeline_loader import LatentDiffusionModel, with_lora
from emoji_ldm.generate.request import GenerationRequest, LatentShape

# The margin keeps noise of the measurement from choosing a split that gains nothing and occupies a second core.
MAX_SPLIT_COST = 0.95  # two passes side by side must take at most this share of the time of one
NUM_ROUNDS = 5

Timings = list[dict[tuple[int, int], float]]  # per round: {(min_rows_to_split, images): seconds of a tick}


@dataclass
class ShapeProfile:
    """What is known of ticks of one latent shape."""

    profile: LatencyProfile
    max_batch: int  # images per tick
    num_out_of_memory: int = 0  # ticks without enough memory since the last one that had it
    refused_until: float = 0.0  # on the clock of time.monotonic: until then no image of this shape is admitted


@dataclass(eq=False)
class LoadedModel:
    """One set of weights with everything that samples from it."""

    engine: DenoisingEngine
    encoder_decoder: EncoderDecoder
    profile: LatencyProfile  # at the latent shape that the model was trained at
    max_batch: int  # images per tick
    shape_profiles: dict[LatentShape, ShapeProfile] = field(default_factory=dict)

    def shape_profile(self, shape: LatentShape) -> ShapeProfile:
        """The profile of a latent shape; at first an estimate, in proportion to the number of latent cells."""
        if shape not in self.shape_profiles:
            # A U-Net's time is roughly in proportion to the latent cells. Ticks of this shape correct the estimate; for
            # shapes with as many cells as the model's own, the measured profile itself is shared, so that all of them
            # learn from each other.
            size, own_size = math.prod(shape), math.prod(self.encoder_decoder.model.latent_shape)
            profile = self.profile if size == own_size else self.profile.scaled(size / own_size)
            self.shape_profiles[shape] = ShapeProfile(profile, min(self.max_batch, self.engine.max_rows(shape)))
        return self.shape_profiles[shape]


def warm_up_with_adapters(
    model: LatentDiffusionModel,
    loras: Mapping[str, Path],
    batch_size: int,
    *,
    deterministic: bool,
    like: LoadedModel | None = None,
) -> dict[str, LoadedModel]:
    """A model under the name "", and the model with each adapter under the adapter's name, all ready to sample.

    Args:
        model: The base model.
        loras: Folders of adapters by name.
        batch_size: The largest number of images per tick.
        deterministic: Whether all ticks have one batch shape.
        like: A model that was warmed up before. Its measurements are reused if it has the same architecture.

    Raises:
        ModelError: An adapter is missing, or is for another network.
    """
    base = warm_up(model, batch_size, deterministic=deterministic, like=like)
    # Merged adapters change no tensor's shape, so every adapted model reuses the measurements of the base.
    adapted = {
        name: warm_up(with_lora(model, folder), batch_size, deterministic=deterministic, like=base)
        for name, folder in loras.items()
    }
    return {"": base} | adapted


def warm_up(
    model: LatentDiffusionModel, batch_size: int, *, deterministic: bool, like: LoadedModel | None = None
) -> LoadedModel:
    """A model whose ticks are measured, or known from `like` if that has the same architecture."""
    engine, encoder_decoder = prepare_engine(model, batch_size, deterministic=deterministic)
    if like is None or _architecture(like.engine.model) != _architecture(model):
        return _measure(engine, encoder_decoder)
    engine.unet.min_rows_to_split = like.engine.unet.min_rows_to_split
    # The profile is copied, as each model goes on measuring its own ticks.
    return LoadedModel(engine, encoder_decoder, like.profile.copy(), like.max_batch)


def prepare_engine(
    model: LatentDiffusionModel, batch_size: int, *, deterministic: bool
) -> tuple[DenoisingEngine, EncoderDecoder]:
    """An engine and its encoder and decoder, with kernels chosen and CUDA graphs captured."""
    engine = DenoisingEngine(model, batch_size, deterministic=deterministic)
    encoder_decoder = EncoderDecoder(model, batch_size, deterministic=deterministic)
    # The states of an empty prompt have the shape of any prompt's, as prompts are padded.
    states = encoder_decoder.encode(GenerationRequest("")).positive
    engine.unet.capture(model.latent_shape, states, has_guidance_input=model.has_guidance_input)
    # The first decode chooses kernels too, which would otherwise delay the first image.
    encoder_decoder.decode([torch.zeros(model.latent_shape, device=model.device)])
    return engine, encoder_decoder


def _architecture(model: LatentDiffusionModel) -> Any:
    """What the time of a tick depends on."""
    return model.device, model.latent_shape, {name: part.shape for name, part in model.unet.state_dict().items()}


def _measure(engine: DenoisingEngine, encoder_decoder: EncoderDecoder) -> LoadedModel:
    """Time ticks of 1, 2, 4, ... images, and choose from the times what the fast mode is free to choose.

    These are the number of rows from which on a pass is split over two cores, and the number of images beyond which a
    larger tick costs latency without gaining throughput.
    """
    unet, max_images, shape = engine.unet, engine.batch_size, engine.model.latent_shape
    # Powers of two suffice, since the profile interpolates; the largest size is always among them.
    sizes = sorted({min(1 << power, max_images) for power in range(max_images.bit_length() + 1)})
    costs = {size: engine.num_unet_rows(size, size, shape) for size in sizes}
    # In deterministic mode many sizes are padded to one cost; each cost is timed once.
    size_by_cost = {cost: size for size, cost in costs.items()}
    never_split, split = unet.max_rows + 1, unet.min_rows_to_split
    options = sorted({split} if unet.deterministic else {never_split, split})
    rounds = _time_rounds(
        engine, encoder_decoder, [(option, size) for option in options for size in size_by_cost.values()]
    )
    # Medians of ratios within a round: a machine that slows down between rounds slows down both sides of a ratio.
    not_worth_splitting = [
        size for size in sizes
        if len(options) > 1
        and median(times[split, size] / times[never_split, size] for times in rounds) > MAX_SPLIT_COST
    ]  # fmt: skip
    # Splitting must pay off at every size from the threshold on; a guided image is two rows.
    unet.min_rows_to_split = 2 * max(not_worth_splitting) + 2 if not_worth_splitting else split
    chosen = {
        size: never_split if not_worth_splitting and size <= max(not_worth_splitting) else split for size in sizes
    }
    best = [{size: times[chosen[size], size_by_cost[costs[size]]] for size in sizes} for times in rounds]
    profile = LatencyProfile({costs[size]: median(times[size] for times in best) for size in sizes})
    # In deterministic mode a smaller tick is padded to the same shape, so it would only waste slots.
    max_batch = max_images if unet.deterministic else efficient_batch_size(best)
    return LoadedModel(engine, encoder_decoder, profile, max_batch)


def _time_rounds(engine: DenoisingEngine, encoder_decoder: EncoderDecoder, keys: Sequence[tuple[int, int]]) -> Timings:
    """Time ticks for each (min_rows_to_split, images).

    Each round times every key once, so that a change of the machine's load falls on all of them alike.
    """
    # The first call at a shape allocates memory and chooses kernels, so its time is not counted.
    for min_rows_to_split, size in keys:
        _tick_s(engine, encoder_decoder, size, min_rows_to_split)
    # The deterministic mode chooses nothing by the times: it needs only a first estimate for admission control.
    num_rounds = 2 if engine.unet.deterministic else NUM_ROUNDS
    rounds = [{key: _tick_s(engine, encoder_decoder, key[1], key[0]) for key in keys} for _ in range(num_rounds)]
    # These ticks must not reach the profile a second time, as if requests had caused them.
    engine.timer.reset()
    return rounds


def _tick_s(engine: DenoisingEngine, encoder_decoder: EncoderDecoder, size: int, min_rows_to_split: int) -> float:
    """Seconds of a tick of `size` guided images."""
    engine.unet.min_rows_to_split = min_rows_to_split
    rows = [encoder_decoder.encode(GenerationRequest("", steps=1, guidance_scale=2)) for _ in range(size)]
    started = time.perf_counter()
    engine.tick(rows)
    # A tick returns when its kernels are queued; only after this is the time that of the GPU.
    if engine.model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
