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


class Network:
    """Calls of one U-Net; not safe to use from two threads at once."""

    def __init__(self, unet: Any, batch_size: int, *, strict: bool) -> None:
        """Settle the shapes for up to `batch_size` pictures, each with and without its prompt."""
        self.unet, self.strict, self.most = unet, strict, 2 * batch_size
        self.device: torch.device = unet.device
        on_cpu = self.device.type == "cpu"
        self.rows_per_pass = batch_size if on_cpu else self.most  # in strict mode, where it decides the bits
        beside = on_cpu and _cores() > 1 and torch.get_num_threads() == 1
        self._pool = ThreadPoolExecutor(1, "pass", initializer=one_thread) if beside else None
        self.split_from = 2 if beside else self.most + 1  # rows from which on two passes are quicker, in fast mode
        self._graphs: dict[torch.Size, Graph] = {}

    def passes(self, count: int) -> list[int]:
        """Rows of each of the one or two passes that compute `count` rows; what they add up to more is padding."""
        if self.strict:
            return [self.rows_per_pass] * -(-count // self.rows_per_pass)
        if self.device.type != "cpu":
            return [min(self.most, 1 << (count - 1).bit_length())]
        return [count] if count < self.split_from else [count - count // 2, count // 2]

    def __call__(self, inputs: Inputs, passes: Sequence[int]) -> Tensor:
        """Outputs of rows that are padded to `sum(passes)`."""
        if len(passes) == 1:
            return self._forward(inputs)
        x, timesteps, states = (torch.split(part, list(passes)) for part in inputs)
        first, second = zip(x, timesteps, states, strict=True)
        if self._pool is None:
            return torch.cat([self._forward(first), self._forward(second)])
        beside = self._pool.submit(self._forward, second)
        return torch.cat([self._forward(first), beside.result()])

    @torch.inference_mode()
    def capture(self, shape: tuple[int, int, int], states: Tensor) -> None:
        """Make all passes of a latent's shape quick, on a GPU; `states` are those `(tokens, width)` of any prompt."""
        for rows in {sum(self.passes(count)) for count in range(1, self.most + 1)}:
            x = torch.zeros((rows, *shape), device=self.device)
            if self.device.type == "cuda" and x.shape not in self._graphs:
                inputs = x, torch.zeros(rows, device=self.device), states.repeat(rows, 1, 1)
                self._graphs[x.shape] = Graph(self._forward, inputs)

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
