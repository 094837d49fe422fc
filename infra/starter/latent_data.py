"""Latents and token states of the data set, drawn by (seed, step)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infra.starter.paths import DATA
from infra.starter.run import rng_of
from infra.starter.text_states import MAX_TOKENS
from infra.starter.train_autoencoder import load_autoencoder, to_tensor

RECOLORED_SHARE = 0.22
GROUP_WEIGHTS = {0: 1.6, 1: 0.55, 3: 1.2, 4: 1.1, 8: 0.6}  # faces count more; persons and signs are many alike
DROPPED_CAPTIONS = 0.1  # for classifier-free guidance


@torch.no_grad()
def encode_pictures(autoencoder: str, batch: int = 64) -> Path:
    """Write latents `(2, N, C, h, w)` float16, plain and mirrored, with mean and spread per channel; done once."""
    folder = DATA / "autoencoder" / autoencoder
    if (folder / "latents.npy").exists():
        return folder
    model, pictures = load_autoencoder(autoencoder), np.load(DATA / "pictures.npy", mmap_mode="r")
    sides = []
    for mirrored in (False, True):
        parts = []
        for first in range(0, len(pictures), batch):
            pixels = to_tensor(pictures[first : first + batch])
            pixels = (pixels.flip(3) if mirrored else pixels).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):  # in float32 this takes ten times as long
                parts.append(model.encode(pixels).half().contiguous().numpy())
        sides.append(np.concatenate(parts))
    latents = np.stack(sides)
    plain = latents[0].astype(np.float32)
    figures = {"mean": plain.mean((0, 2, 3)).tolist(), "std": plain.std((0, 2, 3)).tolist()}
    (folder / "latents.json").write_text(json.dumps(figures))
    np.save(folder / "latents.tmp.npy", latents)
    (folder / "latents.tmp.npy").rename(folder / "latents.npy")
    return folder


class LatentSet:
    """What diffusion training reads, all of it in memory."""

    def __init__(self, autoencoder: str) -> None:
        folder = encode_pictures(autoencoder)
        figures = json.loads((folder / "latents.json").read_text())
        self.mean, self.std = (np.array(figures[name], np.float32)[:, None, None] for name in ("mean", "std"))
        self.latents: NDArray[np.float16] = np.load(folder / "latents.npy", mmap_mode="r")
        self.records: list[dict[str, Any]] = json.loads((DATA / "records.json").read_text())
        texts = json.loads((DATA / "texts.json").read_text())
        self.numbers = {text: number for number, text in enumerate(texts["texts"])}
        self.ends = np.array([0, *texts["ends"]])
        self.states: NDArray[np.float16] = np.load(DATA / "states.npy", mmap_mode="r")
        train = [row for row, record in enumerate(self.records) if record["split"] == "train"]
        self.rows = np.array(train)
        self.shares = np.cumsum(self._weights(train))
        self.held = np.array([row for row, record in enumerate(self.records) if record["split"] != "train"])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, h, w) of a latent."""
        return tuple(self.latents.shape[2:])  # type: ignore[return-value]

    def batch(self, seed: int, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Latents `(size, C, h, w)` of unit spread and token states `(size, MAX_TOKENS, 384)`, zeros behind."""
        rng = rng_of(seed, step, stream=1)
        latents, numbers = [], []
        for row in self.rows[np.searchsorted(self.shares, rng.random(size) * self.shares[-1])]:
            record = self.records[row]
            mirrored = int(record["mirrored"] and rng.random() < 0.5)
            captions = record["captions"]
            caption = "" if rng.random() < DROPPED_CAPTIONS else captions[rng.integers(len(captions))]
            latents.append(self.latents[mirrored, row])
            numbers.append(self.numbers[caption])
        return self.scaled(np.stack(latents)), self.padded(numbers)

    def held_out(self, num: int) -> tuple[Tensor, Tensor]:
        """The first `num` held-out latents in a fixed mixed order, with their first captions."""
        rows = np.random.default_rng(0).permutation(self.held)[:num]
        numbers = [self.numbers[self.records[row]["captions"][0]] for row in rows]
        return self.scaled(np.stack([self.latents[0, row] for row in rows])), self.padded(numbers)

    def scaled(self, latents: NDArray[np.float16]) -> Tensor:
        """Latents as the network sees them, mean 0 and spread 1 per channel."""
        return torch.from_numpy((latents.astype(np.float32) - self.mean) / self.std)

    def unscaled(self, latents: Tensor) -> Tensor:
        """Latents as the decoder wants them."""
        return latents.float() * torch.from_numpy(self.std) + torch.from_numpy(self.mean)

    def padded(self, numbers: list[int]) -> Tensor:
        """Token states of texts by number, `(n, MAX_TOKENS, 384)` float32."""
        states = torch.zeros(len(numbers), MAX_TOKENS, self.states.shape[1])
        for row, number in enumerate(numbers):
            found = self.states[self.ends[number] : self.ends[number + 1]]
            states[row, : len(found)] = torch.from_numpy(np.asarray(found, np.float32))
        return states

    def _weights(self, rows: list[int]) -> NDArray[np.float64]:
        changed = np.array([self.records[row]["recolored"] for row in rows])
        weights = np.array([GROUP_WEIGHTS.get(self.records[row]["group"], 1.0) for row in rows])
        weights[changed] *= RECOLORED_SHARE / weights[changed].sum()
        weights[~changed] *= (1 - RECOLORED_SHARE) / weights[~changed].sum()
        return weights
