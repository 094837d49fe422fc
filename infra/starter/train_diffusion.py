"""Train the latent diffusion model; resumes from its folder.

`python -m infra.starter.train_diffusion NAME --autoencoder A ...`
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from emoji_ldm.latents.text_encoder import load_text_encoder
from infra.starter.diffusion import losses, noise_and_times, sample, validation_errors
from infra.starter.latent_data import LatentSet
from infra.starter.networks import build_network
from infra.starter.optimizer import build_optimizers, lr_factor, set_lr, update_average
from infra.starter.paths import DATA
from infra.starter.prompts import PROMPTS, SEEDS
from infra.starter.run import Run
from infra.starter.sheets import sheet
from infra.starter.text_states import MAX_TOKENS
from infra.starter.train_autoencoder import load_autoencoder, to_bytes

VALIDATION_PICTURES = 128


class Training:
    """Network, average and optimisers, and one step of them.

    A step is shared by `threads` Python threads, each with its part of the batch and gradients of its own, on weights
    that all share. torch's own threads wait for each other at every operation: on a machine with other work to do that
    was found to be five times slower.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.data = options, LatentSet(options.autoencoder)
        torch.set_num_threads(1)
        self.pool = ThreadPoolExecutor(options.threads, initializer=torch.set_num_threads, initargs=(1,))
        torch.manual_seed(options.seed)
        self.network, self.average = (self._network() for _ in range(2))
        self.average.load_state_dict(self.network.state_dict())
        self.average.requires_grad_(False)
        self.replicas = [self.network, *(self._network() for _ in range(options.threads - 1))]
        self._share_weights()
        compiled = options.compile  # once per shape; the compiler's cache makes a resume start within seconds
        self.calls = [torch.compile(replica, dynamic=False) if compiled else replica for replica in self.replicas]
        parts = (options.optimizer, options.lr, options.weight_decay, options.threads)
        self.optimizers = build_optimizers(self.network, *parts)
        self.step, self.compiled = 0, False

    def train_step(self) -> tuple[float, float]:
        """One update; (loss, gradient norm)."""
        options = self.options
        latents, states = self.data.batch(options.seed, self.step, options.batch)
        noise, times = noise_and_times(options.seed, self.step, latents.shape, options.time_mean, options.time_std)
        layout = torch.channels_last if options.network == "unet" else torch.contiguous_format
        latents, noise = (tensor.contiguous(memory_format=layout) for tensor in (latents, noise))
        parts = zip(
            self.calls, *(tensor.chunk(options.threads) for tensor in (latents, states, noise, times)), strict=True
        )
        if options.compile and not self.compiled:  # the compiler runs in one thread at a time
            self.compiled, loss = True, sum([self._backward(*part) for part in parts])
        else:
            loss = sum(self.pool.map(lambda part: self._backward(*part), parts))
        for replica in self.replicas[1:]:
            torch._foreach_add_(
                [weight.grad for weight in self.network.parameters()], [weight.grad for weight in replica.parameters()]
            )
            replica.zero_grad(set_to_none=True)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        set_lr(self.optimizers, options.lr * lr_factor(self.step, options.warmup, options.steps, options.decay))
        list(self.pool.map(lambda optimizer: optimizer.step(), self.optimizers))
        self.network.zero_grad(set_to_none=True)
        update_average(list(self.average.parameters()), list(self.network.parameters()), self.step)
        self.step += 1
        return loss, float(norm)

    @torch.no_grad()
    def validate(self) -> list[float]:
        """See `validation_errors`; of the averaged weights."""
        latents, states = self.data.held_out(VALIDATION_PICTURES)
        with torch.autocast("cpu", torch.bfloat16):
            return validation_errors(self.average, self.options.objective, latents, states)

    def draw_sheet(self, run: Run, guidance: float = 3.0) -> None:
        """The fixed prompts with the fixed seeds, two prompts to a row."""
        encoder = load_text_encoder("minilm", max_tokens=MAX_TOKENS, device="cpu")
        decoder, shape = load_autoencoder(self.options.autoencoder), self.data.shape
        rows: list[Any] = []
        for prompts in (PROMPTS[first : first + 3] for first in range(0, len(PROMPTS), 3)):
            states = encoder.pad(encoder.encode([prompt for prompt in prompts for _ in SEEDS]), MAX_TOKENS)
            empty = encoder.pad(encoder.encode([""]), MAX_TOKENS).expand_as(states)
            noise = torch.stack([seeded_noise(seed, shape) for _ in prompts for seed in SEEDS])
            latents = sample(self.average, self.options.objective, noise, states, empty, guidance=guidance)
            with torch.autocast("cpu", torch.bfloat16):
                rows.append(to_bytes(decoder.decode(self.data.unscaled(latents))))
        sheet(rows, run.folder / f"sheet-{self.step:07d}.png")

    def state(self) -> dict[str, Any]:
        """All that `load` needs to go on as if nothing had been."""
        return {
            "step": self.step, "options": vars(self.options), "shape": self.data.shape,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step = state["step"]

    def _backward(self, network: nn.Module, latents: Tensor, states: Tensor, noise: Tensor, times: Tensor) -> float:
        """Add the gradient of one thread's part of the batch; its share of the mean loss."""
        with torch.autocast("cpu", torch.bfloat16):
            loss = losses(network, self.options.objective, latents, states, noise, times).sum() / self.options.batch
        loss.backward()
        return float(loss.detach())

    def _share_weights(self) -> None:
        for replica in self.replicas[1:]:
            for own, shared in zip(replica.parameters(), self.network.parameters(), strict=True):
                own.data = shared.data

    def _network(self) -> nn.Module:
        options = self.options
        network = build_network(options.network, self.data.shape, options.widths, options.depth)
        return network.to(memory_format=torch.channels_last) if options.network == "unet" else network  # type: ignore[call-overload]


def seeded_noise(seed: int, shape: tuple[int, int, int]) -> Tensor:
    """The noise that a picture of this seed starts from, whatever is drawn beside it."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def main() -> None:
    """Train until `--steps`, or until SIGTERM."""
    options = _options()
    run, training = Run(DATA / "diffusion" / options.name, options.save_s), Training(options)
    state = run.load()
    if state:
        training.load(state)
    parameters = sum(weight.numel() for weight in training.network.parameters())
    run.log(event="start", step=training.step, parameters=parameters, **vars(options))
    seen, figures, since, drawn = 0, [], _clocks(run), time.monotonic()
    for _ in run.steps(training.step, options.steps):
        figures.append(training.train_step())
        seen += options.batch
        last = training.step == options.steps
        if training.step % options.report == 0 or last:
            loss, norm = np.mean(figures, axis=0)
            rates = [seen / max(now - then, 1e-9) for now, then in zip(_clocks(run), since, strict=True)]
            run.log(
                step=training.step,
                loss=float(loss),
                norm=float(norm),
                img_s=rates[0],
                img_cpu_s=rates[1],
                images=training.step * options.batch,
            )
            if training.step % (4 * options.report) == 0 or last:
                run.log(step=training.step, validation=[round(error, 4) for error in training.validate()])
            seen, figures, since = 0, [], _clocks(run)
        if run.due() or last:
            run.save(training.state())
        if time.monotonic() - drawn > options.sheet_s or last:
            training.draw_sheet(run)
            drawn, since, seen, figures = time.monotonic(), _clocks(run), 0, []
    run.save(training.state())
    run.log(event="stop", step=training.step)


def _clocks(run: Run) -> tuple[float, float]:
    return time.monotonic() - run.paused_s, time.process_time()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--autoencoder", required=True)
    parser.add_argument("--network", choices=("unet", "dit"), default="unet")
    parser.add_argument("--objective", choices=("flow", "v"), default="flow")
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="muon")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 192, 256])
    for name, default in (
        ("depth", 1), ("steps", 400), ("batch", 64), ("seed", 0), ("threads", 1), ("report", 25), ("warmup", 20),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (
        ("lr", 1e-3), ("weight-decay", 0.01), ("time-mean", 0.0), ("time-std", 1.0), ("decay", 0.5), ("save-s", 600.0),
        ("sheet-s", 1200.0),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=float, default=default)
    return parser.parse_args()


if __name__ == "__main__":
    main()
