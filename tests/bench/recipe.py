"""How many steps our default recipe needs to reach the final loss of the reference systems' recipe.

The data are real emoji (the fixture's blobs and Fluent flat) as small latents, RGBA means of blocks of 16 x 16 pixels,
which is what our autoencoder is initialised to, with captions of fixed random word vectors. Both recipes train the same
small U-Net from the same weights on the same images in the same order, with the same noise, optimizer, learning rate
and cosine decay. The baseline does what the reference systems do: it predicts noise at uniform timesteps with plain
squared error and averages no weights. Ours has the defaults of `train`. This is a proxy that runs for minutes, in which
neither converges: it shows which recipe learns faster, not the final quality of a large network.

The figure is the baseline's own objective: the squared error of the noise on held-out images, with fixed noise and
evenly spread timesteps. The prediction of our network, with its averaged weights, is converted to noise.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from emoji_ldm.config import Config, TrainConfig, load
from emoji_ldm.demo.sample_images import fixture_images
from emoji_ldm.latents.cache import LatentSet
from emoji_ldm.latents.text_encoder import pad
from emoji_ldm.model.ema import AVERAGE_NAMES, WeightAverages
from emoji_ldm.train.engines.distributed import DistributedContext
from emoji_ldm.train.engines.optimizer import lr_at
from emoji_ldm.train.engines.training_engine import build_engine
from emoji_ldm.train.tasks.diffusion_task import DiffusionTask
from emoji_ldm.train.tasks.objective import NoiseSchedule
from emoji_ldm.train.tasks.pipeline_export import FrozenModels
from emoji_ldm.train.training_args import build_training_args

SEEDS = (100, 101, 102)  # the recipe was chosen with other seeds
FLOOR = 0.6
BASELINE = ("train.prediction_type=epsilon", "train.snr_gamma=null")
SIZE = (
    "train.block_out_channels=[16,32]", "train.layers_per_block=1", "train.num_heads=2", "train.batch_size=16",
    "train.lr=2e-3", "train.warmup_steps=50", "train.zero_stage=0", "train.validation_fraction=0",
    "latents.max_tokens=8",
)  # fmt: skip
NUM_STEPS, QUICK_STEPS = 300, 80
NUM_CHECKS = 20  # evaluations per run
NUM_HELD, NUM_LEVELS = 48, 10
SIDE, WIDTH = 8, 32  # cells of a latent's side; length of a word vector

Curve = list[tuple[int, float]]  # (steps done, figure)


def run(*, quick: bool) -> dict[str, Any]:
    """Per seed: our steps to the baseline's final figure, as a share of the baseline's steps."""
    torch.set_num_threads(1)
    steps, shares, ends = QUICK_STEPS if quick else NUM_STEPS, [], []
    for seed in SEEDS[:1] if quick else SEEDS:
        fields = (f"train.steps={steps}", f"train.seed={seed}")
        baseline = train(load(None, [*SIZE, *BASELINE, *fields]), checks=1, averaged=False)
        ours = train(load(None, [*SIZE, *fields]), checks=NUM_CHECKS, averaged=True, until=baseline[-1][1])
        done, figure = ours[-1]
        shares.append(done / steps if figure <= baseline[-1][1] else math.inf)
        ends.append(round(baseline[-1][1], 4))
    share = max(shares)
    figures = {"share_of_steps": share, "per_seed": shares, "baseline_noise_error": ends, "baseline_steps": steps}
    return {"figures": figures, "floor": {"share_of_steps": f"<= {FLOOR}"}, "target": {"share_of_steps": "<= 0.33"},
            "holds": share <= FLOOR}  # fmt: skip


def train(config: Config, *, checks: int, averaged: bool, until: float = 0.0) -> Curve:
    """The figure at `checks` steps of a training that ends when it reaches `until`; averaged or last weights."""
    latents, held = emoji(config.train.seed)
    task = DiffusionTask(
        config, latents, FrozenModels(SimpleNamespace(scaling_factor=1.0, key=""), SimpleNamespace(key=""))
    )
    plan = build_training_args(config, "train")
    engine = build_engine(task.module, plan, DistributedContext(0, 1, torch.device("cpu")))
    averages, curve = WeightAverages(engine.master_shards(), plan.ema_decay, plan.ema_widths), [(0, math.inf)]
    for step in range(plan.steps):
        engine.backward(task.loss(engine.forward, task.prepare_batch(step, range(plan.batch_size))), last=True)
        engine.step(lr_at(step, plan), math.inf)
        averages.update(engine.master_shards(), step + 1)
        if (step + 1) % (plan.steps // checks) == 0:
            own = [shard.clone() for shard in engine.master_shards()]
            put(engine.master_shards(), averages.tensors[AVERAGE_NAMES[0]] if averaged else own)
            curve.append((step + 1, noise_error(task.module, config.train, held)))
            put(engine.master_shards(), own)
        if curve[-1][1] <= until:
            break
    return curve


@torch.no_grad()
def noise_error(module: torch.nn.Module, config: TrainConfig, held: tuple[Tensor, Tensor]) -> float:
    """Mean squared error of the noise over all held-out images at even timesteps of the baseline's schedule."""
    latents, states = held
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    errors = []
    for timestep in torch.linspace(0, 999, NUM_LEVELS + 1)[:-1].long() + 999 // (2 * NUM_LEVELS):
        signal, level = NoiseSchedule(TrainConfig(prediction_type="epsilon", snr_gamma=None)).signal_and_noise(timestep)
        guess = noise_of(module, config, signal * latents + level * noise, (signal, level), states)
        errors.append((guess - noise).square().mean())
    return float(torch.stack(errors).mean())


def noise_of(
    module: torch.nn.Module, config: TrainConfig, x: Tensor, levels: tuple[Tensor, Tensor], states: Tensor
) -> Tensor:
    """The noise that the network sees in `x`, whatever it predicts, at its timestep with these levels."""
    signal, level = levels
    scale = 1 / (signal + level) if config.prediction_type == "flow" else torch.tensor(1.0)
    if config.prediction_type == "flow":
        timestep = (1000 * level * scale).long().clamp(max=999)
    else:
        own = NoiseSchedule(config).signal_and_noise(torch.arange(1000))
        timestep = ((own[0] / own[1]).log() - (signal / level).log()).abs().argmin()
    output = module(scale * x, timestep.expand(len(x)), states)
    return {
        "epsilon": lambda: output,
        "v_prediction": lambda: signal * output + level * x,
        "sample": lambda: (x - signal * output) / level,
        "flow": lambda: scale * x + signal * scale * output,
    }[config.prediction_type]()


def put(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Overwrite tensors in place."""
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)


def emoji(seed: int) -> tuple[LatentSet, tuple[Tensor, Tensor]]:
    """Latents to train on, and (latents, token states) held out, chosen by the seed."""
    pixels, titles = pictures()
    order = np.random.default_rng(seed).permutation(len(pixels))
    vectors = np.random.default_rng(0).normal(size=(len(words(titles)), WIDTH)).astype(np.float32)
    positions = {word: number for number, word in enumerate(words(titles))}
    states = [np.stack([vectors[positions[word]] for word in ["", *title.split()][:8]]) for title in ["", *titles]]
    held, used = order[:NUM_HELD], order[NUM_HELD:]
    mean = pixels[used]
    data = LatentSet(
        image_ids=[str(number) for number in used], mean=mean, logvar=np.full_like(mean, -12.0),
        captions=["", *titles], caption_indices=[[int(number) + 1] for number in used], states=states, empty_index=0,
        num_uncaptioned=0, versions={},
    )  # fmt: skip
    return data, (torch.from_numpy(pixels[held]), pad([states[number + 1] for number in held], 8))


def words(titles: Sequence[str]) -> list[str]:
    """Every word, the empty one first."""
    return ["", *sorted({word for title in titles for word in title.split()})]


@cache
def pictures() -> tuple[NDArray[np.float32], list[str]]:
    """Block means `(N, 4, 8, 8)` of unit standard deviation, colours times alpha; and the lower-case titles."""
    chosen = fixture_images()
    images = [Image.open(io.BytesIO(picture.data)).convert("RGBa") for picture in chosen]
    small = np.stack([np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX)) for image in images])
    values = small.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
    return values / values.std(), [picture.title.lower() for picture in chosen]
