"""The starter's training at full size on one GPU: the recipe of `infra.starter` with large batches, compiled, in bf16.

It stops at a deadline and goes on from its checkpoint at the next call as if it had not stopped: the checkpoint holds
the whole state, and all randomness is a function of (seed, step). The checkpoint has the form of
`infra.starter.train_diffusion`, so that `infra.starter.export` packs what was trained here.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emoji_ldm.latents.text_encoder import load_text_encoder
from infra.gpu.parts import join_parts, split_file
from infra.gpu.starter_data import AUTOENCODER
from infra.starter.diffusion import losses, noise_and_times, sample, validation_errors
from infra.starter.latent_data import LatentSet
from infra.starter.networks import build_network
from infra.starter.optimizer import build_optimizers, lr_factor, set_lr, update_average
from infra.starter.prompts import PROMPTS, SEEDS
from infra.starter.sheets import sheet
from infra.starter.text_states import MAX_TOKENS
from infra.starter.train_autoencoder import load_autoencoder, to_bytes

CHECKPOINT = "last.pt"
AVERAGE = "starter-average.pt"
VALIDATION_PICTURES = 512
PREFETCH = 4  # batches that threads prepare while the device works
SAVE_S = 180.0


@dataclass(frozen=True)
class Recipe:
    """The options of a training, under the names that `infra.starter` gives them in its checkpoints."""

    network: str = "unet"
    objective: str = "flow"
    widths: tuple[int, ...] = (96, 192, 288)
    depth: int = 1
    batch: int = 768
    steps: int = 10_000
    lr: float = 3e-3
    warmup: int = 200
    decay: float = 0.3
    weight_decay: float = 0.01
    optimizer: str = "muon"
    time_mean: float = 0.0
    time_std: float = 1.0
    seed: int = 0
    autoencoder: str = AUTOENCODER


TINY = Recipe(widths=(32,), batch=4, steps=3, warmup=2)


class StarterTraining:
    """Network, average and optimisers on a device, and one step of them."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        from diffusers.models.attention_processor import AttnProcessor2_0

        self.recipe, self.device, self.data = recipe, device, LatentSet(recipe.autoencoder)
        torch.manual_seed(recipe.seed)
        network: Any = build_network(recipe.network, self.data.shape, list(recipe.widths), recipe.depth)
        network.unet.set_attn_processor(AttnProcessor2_0())  # the plain products of the recipe are for CPUs
        self.network = network.to(device=device, memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        # A CPU is there for tests of this code, for which compiling takes too long.
        self.call = torch.compile(self.network, dynamic=False) if device.type == "cuda" else self.network
        self.optimizers = build_optimizers(self.network, recipe.optimizer, recipe.lr, recipe.weight_decay)
        self.step = 0

    def batches(self) -> Iterator[tuple[Tensor, ...]]:
        """Latents, states, noise and times of the steps from `self.step` on, prepared ahead by threads."""
        steps = range(self.step, self.recipe.steps)
        with ThreadPoolExecutor(PREFETCH) as pool:
            pending = [pool.submit(self._prepare, step) for step in steps[:PREFETCH]]
            for step in steps:
                parts = pending.pop(0).result()
                if step + PREFETCH < self.recipe.steps:
                    pending.append(pool.submit(self._prepare, step + PREFETCH))
                yield tuple(part.to(self.device, non_blocking=True) for part in parts)

    def train_step(self, parts: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """One update; (loss, gradient norm) on the device, which the host does not wait for."""
        recipe = self.recipe
        latents, states, noise, times = parts
        latents, noise = (part.contiguous(memory_format=torch.channels_last) for part in (latents, noise))
        with torch.autocast(self.device.type, torch.bfloat16):
            loss = losses(self.call, recipe.objective, latents, states, noise, times).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        set_lr(self.optimizers, recipe.lr * lr_factor(self.step, recipe.warmup, recipe.steps, recipe.decay))
        for optimizer in self.optimizers:
            optimizer.step()
        self.network.zero_grad(set_to_none=True)
        update_average(list(self.average.parameters()), list(self.network.parameters()), self.step)
        self.step += 1
        return loss.detach(), norm

    @torch.no_grad()
    def validate(self) -> list[float]:
        """Errors of the averaged weights on held-out pictures; comparable with those in the notebook."""
        latents, states = (part.to(self.device) for part in self.data.held_out(VALIDATION_PICTURES))
        with torch.autocast(self.device.type, torch.bfloat16):
            return validation_errors(self.average, self.recipe.objective, latents, states)

    def draw_sheet(self, folder: Path, encoder_folder: Path) -> Path:
        """The fixed prompts with the fixed seeds, three prompts to a row, as `infra.starter` draws them."""
        prompts = PROMPTS if self.recipe != TINY else PROMPTS[:1]
        encoder = load_text_encoder(str(encoder_folder), max_tokens=MAX_TOKENS, device=str(self.device))
        decoder, rows = load_autoencoder(self.recipe.autoencoder).to(self.device), []
        for some in (prompts[first : first + 3] for first in range(0, len(prompts), 3)):
            texts = [prompt for prompt in some for _ in SEEDS]
            states, empty = (encoder.pad(encoder.encode(given), MAX_TOKENS) for given in (texts, [""] * len(texts)))
            noise = torch.stack(
                [torch.randn(self.data.shape, generator=torch.Generator().manual_seed(seed))
                 for _ in some for seed in SEEDS]
            )  # fmt: skip
            inputs = (part.to(self.device) for part in (noise, states, empty))
            latents = sample(self.average, self.recipe.objective, *inputs)
            with torch.autocast(self.device.type, torch.bfloat16):
                pixels = decoder.decode(self.data.unscaled(latents.cpu()).to(self.device))
            rows.append(to_bytes(pixels.cpu()))
        path = folder / f"sheet-{self.step:07d}.png"
        sheet(rows, path)
        return path

    def state(self) -> dict[str, Any]:
        """All that `load` needs to go on as if nothing had been."""
        return {
            "step": self.step, "options": asdict(self.recipe), "shape": self.data.shape,
            "network": self.network.state_dict(), "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`; ValueError if it is of another recipe."""
        if {**state["options"], "widths": tuple(state["options"]["widths"])} != asdict(self.recipe):
            raise ValueError(f"the checkpoint is of another recipe: {state['options']}; use another work folder")
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step = state["step"]

    def _prepare(self, step: int) -> tuple[Tensor, ...]:
        recipe = self.recipe
        latents, states = self.data.batch(recipe.seed, step, recipe.batch)
        noise, times = noise_and_times(recipe.seed, step, latents.shape, recipe.time_mean, recipe.time_std)
        parts = (latents, states, noise, times)
        return tuple(part.pin_memory() for part in parts) if self.device.type == "cuda" else parts


def save(training: StarterTraining, folder: Path) -> None:
    """Write the whole state and, for use elsewhere, the average in float16, both in parts of at most 16 MB."""
    state = training.state()
    average = {name: weight.half() for name, weight in state["average"].items()}
    for name, content in (
        (CHECKPOINT, state),
        (AVERAGE, {**{key: state[key] for key in ("step", "options", "shape")}, "average": average}),
    ):
        torch.save(content, folder / name)
        split_file(folder / name, folder / "parts")
        (folder / name).unlink()


def train(recipe: Recipe, folder: Path, encoder_folder: Path, device: torch.device, deadline: float) -> dict[str, Any]:
    """Train until the last step or the deadline (of `time.monotonic()`); figures, of which `done` says which it was."""
    folder.mkdir(parents=True, exist_ok=True)
    training = StarterTraining(recipe, device)
    if join_parts(folder / "parts", CHECKPOINT, folder / CHECKPOINT):
        training.load(torch.load(folder / CHECKPOINT, map_location=device, weights_only=False))
        (folder / CHECKPOINT).unlink()
    first, log, figures = training.step, [], []
    window = saved = time.monotonic()
    for parts in training.batches():
        figures.append(torch.stack(training.train_step(parts)))
        if len(figures) == 100 or training.step == recipe.steps:
            loss, norm = (float(value) for value in torch.stack(figures).mean(0))  # the host waits here
            now = time.monotonic()
            log.append({"step": training.step, "loss": round(loss, 5), "norm": round(norm, 4),
                        "images_per_s": round(len(figures) * recipe.batch / (now - window), 1)})  # fmt: skip
            print(log[-1], flush=True)
            figures, window = [], now
            if not np.isfinite(loss):
                raise ArithmeticError(f"the loss is {loss} at step {training.step}: take a lower learning rate")
            if now - saved > SAVE_S:
                save(training, folder)
                saved = window = time.monotonic()
        if time.monotonic() > deadline:
            break
    save(training, folder)
    errors = [round(error, 4) for error in training.validate()]
    picture = training.draw_sheet(folder, encoder_folder)
    done, images = training.step >= recipe.steps, training.step * recipe.batch
    return {"done": done, "from_step": first, "step": training.step, "images": images, "validation": errors,
            "sheet": picture.name, "log": log}  # fmt: skip
