"""The U-Net at the shapes of a mode: one for ever in strict mode, as many rows as there are in fast mode.

Kernels, and with them the last bits of a result, are chosen by shape. Strict mode therefore cuts the rows into
passes of one shape, the last padded: a row's bits depend on no neighbour, no slot and no number of rows. On CPUs
passes run side by side in threads of one core each, which changes no bit either. On GPUs there is one pass, and
its shapes are captured as CUDA graphs before the first picture.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from emoji_ldm.generate.graphs import Graph, Inputs

LARGE = 3e8  # parameters times latent cells; below, starting a pass costs more than its rows


class Network:
    """Calls of one U-Net; not safe to use from two threads at once."""

    def __init__(self, unet: Any, batch_size: int, *, strict: bool) -> None:
        """Settle the shapes for up to `batch_size` pictures, each with and without its prompt."""
        self.unet, self.strict, self.most = unet, strict, 2 * batch_size
        self.device: torch.device = unet.device
        # What decides is the network alone, so that all machines agree on the shape.
        cut = self.device.type == "cpu" and batch_size > 1 and _size(unet) >= LARGE
        self.rows_per_pass = batch_size if cut else self.most
        beside = cut and _cores() > 1 and torch.get_num_threads() == 1
        self._pool = ThreadPoolExecutor(1, "pass", initializer=one_thread) if beside else None
        self._graphs: dict[torch.Size, Graph] = {}

    def passes(self, count: int) -> list[int]:
        """Rows of each pass that computes `count` rows; what they add up to more is padding."""
        if self.strict:
            return [self.rows_per_pass] * -(-count // self.rows_per_pass)
        if self.device.type != "cpu":
            return [min(self.most, 1 << (count - 1).bit_length())]
        return [count] if self._pool is None or count == 1 else [count - count // 2, count // 2]

    def __call__(self, inputs: Inputs, passes: Sequence[int]) -> Tensor:
        """Outputs of rows that are padded to `sum(passes)`."""
        if len(passes) == 1:
            return self._forward(inputs)
        x, timesteps, states = (torch.split(part, list(passes)) for part in inputs)
        parts: list[Inputs] = list(zip(x, timesteps, states, strict=True))
        if self._pool is None:
            return torch.cat([self._forward(part) for part in parts])
        beside = self._pool.submit(lambda: [self._forward(part) for part in parts[1::2]])
        own = [self._forward(part) for part in parts[::2]]
        both = [own, beside.result()]
        return torch.cat([both[index % 2][index // 2] for index in range(len(parts))])

    @torch.inference_mode()
    def capture(self, inputs: Inputs) -> None:
        """Make passes of this shape quick, on a GPU."""
        if self.device.type == "cuda" and inputs[0].shape not in self._graphs:
            self._graphs[inputs[0].shape] = Graph(self._forward, inputs)

    @torch.inference_mode()
    def _forward(self, inputs: Inputs) -> Tensor:
        x, timesteps, states = inputs
        if (graph := self._graphs.get(x.shape)) is not None:
            return graph(inputs)
        with _deterministic(self.strict and self.device.type == "cuda"):
            output: Tensor = self.unet(x, timesteps, encoder_hidden_states=states, return_dict=False)[0]
        return output


def one_thread() -> None:
    """Every thread has OpenMP settings of its own, which torch sets late: bits must not depend on when."""
    torch.set_num_threads(torch.get_num_threads())


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """Kernels whose results are the same each time, for these calls only."""
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with torch.backends.cudnn.flags(benchmark=False, deterministic=True):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _size(unet: Any) -> float:
    side = unet.config.sample_size
    cells = side * side if isinstance(side, int) else side[0] * side[1]
    return float(cells * sum(parameter.numel() for parameter in unet.parameters()))
