"""Train the autoencoder; resumes from its folder. `python -m infra.starter.train_autoencoder NAME --steps 2000 ...`"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from infra.starter.autoencoder import Autoencoder, AutoencoderShape, reconstruction_loss, squared_errors
from infra.starter.optimizer import build_optimizers, lr_factor, set_lr, update_average
from infra.starter.paths import DATA
from infra.starter.run import Run, rng_of
from infra.starter.sheets import sheet

LATENT_WEIGHT = 0.0005  # of the latents' square: against noise of a fixed size they would grow without end
RECOLORED_SHARE = 0.3
MOST_SHIFT_PX = 4


class PictureSet:
    """The pictures of `build_data`, drawn by (seed, step)."""

    def __init__(self) -> None:
        self.pictures: NDArray[np.uint8] = np.load(DATA / "pictures.npy", mmap_mode="r")
        records = json.loads((DATA / "records.json").read_text())
        self.plain = np.array(
            [row for row, record in enumerate(records) if record["split"] == "train" and not record["recolored"]]
        )
        self.changed = np.array([row for row, record in enumerate(records) if record["recolored"]])
        self.held = np.array([row for row, record in enumerate(records) if record["split"] != "train"])

    def batch(self, seed: int, step: int, size: int) -> Tensor:
        """`(size, 4, 64, 64)` float32 in [0, 1]: moved, mirrored, turned and with colour channels swapped."""
        rng = rng_of(seed, step)
        pictures = []
        for _ in range(size):
            rows = self.changed if rng.random() < RECOLORED_SHARE else self.plain
            picture = np.asarray(self.pictures[rows[rng.integers(len(rows))]])
            turns, mirror, swap = rng.integers(4), rng.random() < 0.5, rng.random() < 0.5
            down, right = rng.integers(-MOST_SHIFT_PX, MOST_SHIFT_PX + 1, 2)
            channels = [*rng.permutation(3), 3] if swap else [0, 1, 2, 3]
            picture = np.rot90(picture, turns if rng.random() < 0.4 else 0)
            picture = _moved(picture[:, ::-1] if mirror else picture, down, right)[..., channels]
            pictures.append(picture)
        return to_tensor(np.stack(pictures))


def to_tensor(pictures: NDArray[np.uint8]) -> Tensor:
    """`(n, h, w, 4)` bytes as `(n, 4, h, w)` float32 in [0, 1], channels last."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float().div_(255)


def to_bytes(pixels: Tensor) -> NDArray[np.uint8]:
    """The inverse, clamped, with colour at most alpha."""
    pixels = pixels.float().clamp(0, 1)
    pixels[:, :3] = torch.minimum(pixels[:, :3], pixels[:, 3:])
    return (pixels * 255).round().byte().permute(0, 2, 3, 1).numpy()


def main() -> None:
    """Train until `--steps`, or until SIGTERM."""
    options = _options()
    torch.set_num_threads(options.threads)
    run, data = Run(DATA / "autoencoder" / options.name), PictureSet()
    torch.manual_seed(options.seed)
    model = Autoencoder(_shape(options)).to(memory_format=torch.channels_last)
    average = Autoencoder(_shape(options)).to(memory_format=torch.channels_last)
    average.load_state_dict(model.state_dict())
    optimizers = build_optimizers(model, options.optimizer, options.lr, 0.0)
    state = run.load()
    first = 0
    if state:
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first = state["step"]
    run.log(event="start", step=first, parameters=sum(weight.numel() for weight in model.parameters()), **vars(options))
    step, losses, since, cpu = first, [], time.monotonic(), time.process_time()
    for step in run.steps(first, options.steps):
        set_lr(optimizers, options.lr * lr_factor(step, 50, options.steps, options.decay))
        losses.append(train_step(model, optimizers, data.batch(options.seed, step, options.batch), options, step))
        update_average(list(average.parameters()), list(model.parameters()), step)
        step += 1
        if step % options.report == 0 or step == options.steps:
            rate, cpu_rate = (
                len(losses) * options.batch / (now - then)
                for now, then in ((time.monotonic(), since), (time.process_time(), cpu))
            )
            color_db, alpha_db, spread = measure(average, data, run)
            run.log(
                step=step,
                loss=float(np.mean(losses)),
                color_db=color_db,
                alpha_db=alpha_db,
                latent_std=spread,
                img_s=rate,
                img_cpu_s=cpu_rate,
            )
            losses, since, cpu = [], time.monotonic(), time.process_time()
        if run.due() or step == options.steps:
            run.save(_state(step, model, average, optimizers))
    run.save(_state(step, model, average, optimizers))


def train_step(
    model: Autoencoder, optimizers: list[torch.optim.Optimizer], pixels: Tensor, options: argparse.Namespace, step: int
) -> float:
    """One update; latents get noise of size `options.noise`, so that small errors of a diffusion model do little."""
    with torch.autocast("cpu", torch.bfloat16):
        latents = model.encode(pixels)
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
        noise = torch.randn(latents.shape, generator=generator)
        decoded = model.decode(latents + options.noise * noise)
        smaller = model.decode(functional.avg_pool2d(latents, 2)) if options.equivariance and step % 2 else None
    loss = reconstruction_loss(decoded, pixels) + LATENT_WEIGHT * latents.float().square().mean()
    if smaller is not None:  # half a latent is the latent of half a picture (arXiv 2502.09509): easier to learn
        loss = loss + options.equivariance * (smaller - functional.avg_pool2d(pixels, 2)).float().abs().mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


@torch.no_grad()
def measure(model: Autoencoder, data: PictureSet, run: Run) -> tuple[float, float, float]:
    """(dB of RGB on white, dB of alpha, spread of latents) over held-out pictures, and a sheet of some of them."""
    errors, spreads, rows = [], [], []
    for start in range(0, len(data.held), 50):
        pixels = to_tensor(data.pictures[data.held[start : start + 50]])
        with torch.autocast("cpu", torch.bfloat16):
            latents = model.encode(pixels)
            decoded = model.decode(latents)
        errors.append(squared_errors(decoded, pixels))
        spreads.append(latents.float().std())
        if start in (0, 150):
            rows += [to_bytes(pixels[::4]), to_bytes(decoded[::4])]
    sheet(rows, run.folder / "held-out.png")
    mean = torch.cat(errors).mean(0)
    return float(-10 * mean[0].log10()), float(-10 * mean[1].log10()), float(torch.stack(spreads).mean())


def load_autoencoder(folder: str) -> Autoencoder:
    """The averaged weights of a run of this module, for use only."""
    state: dict[str, Any] = torch.load(
        DATA / "autoencoder" / folder / "last.pt", map_location="cpu", weights_only=False
    )
    model = Autoencoder(AutoencoderShape(**state["shape"])).to(memory_format=torch.channels_last)
    model.load_state_dict(state["average"])
    return model.eval().requires_grad_(False)


def _state(
    step: int, model: Autoencoder, average: Autoencoder, optimizers: list[torch.optim.Optimizer]
) -> dict[str, Any]:
    return {
        "step": step, "shape": model.config(), "model": model.state_dict(), "average": average.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }  # fmt: skip


def _moved(picture: NDArray[np.uint8], down: int, right: int) -> NDArray[np.uint8]:
    """The picture moved by whole pixels, transparent where nothing came."""
    height, width = picture.shape[:2]
    moved = np.zeros_like(picture)
    moved[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = picture[
        max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)
    ]
    return moved


def _shape(options: argparse.Namespace) -> AutoencoderShape:
    return AutoencoderShape(
        options.channels, tuple(options.widths), tuple(options.encoder_blocks), tuple(options.decoder_blocks)
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    for name, default in (
        ("steps", 2000),
        ("batch", 16),
        ("channels", 8),
        ("seed", 0),
        ("threads", 1),
        ("report", 250),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("lr", 1e-3), ("noise", 0.05), ("decay", 1.0), ("equivariance", 0.0)):
        parser.add_argument(f"--{name}", type=float, default=default)
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="adamw")
    for name, default in (("widths", [64, 192]), ("encoder-blocks", [1, 2]), ("decoder-blocks", [2, 3])):
        parser.add_argument(f"--{name}", type=int, nargs="+", default=default)
    return parser.parse_args()


if __name__ == "__main__":
    main()
