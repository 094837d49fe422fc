"""The U-Net at the shapes of a mode: one for ever in strict mode, as many rows as there are in fast mode.

Kernels, and with them the last bits of a result, are chosen by shape. Strict mode therefore cuts the rows into
passes of one shape, the last padded: a row's bits depend on no neighbour, no slot and no number of rows. On CPUs
passes run side by side in threads of one core each, which changes no bit either.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

BOUND_BY_ARITHMETIC = 2e8  # floating-point operations per row; below, the calls of a pass cost more than its rows
Inputs = tuple[Tensor, Tensor, Tensor]  # samples (n, C, h, w), timesteps (n,), token states (n, tokens, width)


class Network:
    """Calls of one U-Net; not safe to use from two threads at once."""

    def __init__(self, unet: Any, batch_size: int, *, strict: bool) -> None:
        """Settle the shapes for up to `batch_size` pictures, each with and without its prompt."""
        self.unet, self.strict = unet, strict
        self.device: torch.device = unet.device
        self.most = 2 * batch_size
        on_cpu = self.device.type == "cpu"
        self._workers = min(2, _cores()) if on_cpu and torch.get_num_threads() == 1 else 1
        # A tiny network takes one pass for all; what decides is the network alone, so that all machines agree.
        self.rows_per_pass = batch_size if on_cpu and _row_cost(unet) >= BOUND_BY_ARITHMETIC else self.most
        self._pool = ThreadPoolExecutor(1, "pass", initializer=one_thread) if self._workers > 1 else None
        self._graphs: dict[tuple[int, ...], Callable[..., Tensor]] = {}

    def passes(self, count: int) -> list[int]:
        """Rows of each pass that computes `count` rows; what they add up to more is padding."""
        if self.strict:
            return [self.rows_per_pass] * -(-count // self.rows_per_pass)
        if self.device.type != "cpu":
            return [min(self.most, 1 << (count - 1).bit_length())]
        if self._workers == 1 or self.rows_per_pass == self.most or count == 1:
            return [count]
        return [count - count // 2, count // 2]

    def __call__(self, inputs: Inputs, passes: Sequence[int]) -> Tensor:
        """Outputs of rows that are padded to `sum(passes)`."""
        if len(passes) == 1:
            return self._forward(inputs)
        parts = list(zip(*(torch.split(part, list(passes)) for part in inputs), strict=True))
        if self._pool is None:
            return torch.cat([self._forward(part) for part in parts])
        half = len(parts) // 2
        beside = self._pool.submit(lambda: [self._forward(part) for part in parts[:half]])
        own = [self._forward(part) for part in parts[half:]]
        return torch.cat(beside.result() + own)

    def close(self) -> None:
        """End the thread beside."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)

    @torch.inference_mode()
    def _forward(self, inputs: Inputs) -> Tensor:
        x, timesteps, states = inputs
        with self._deterministic():
            output: Tensor = self.unet(x, timesteps, encoder_hidden_states=states, return_dict=False)[0]
        return output

    def _deterministic(self) -> AbstractContextManager[Any]:
        if self.device.type == "cpu":
            return nullcontext()
        return torch.backends.cudnn.flags(benchmark=not self.strict, deterministic=self.strict)


def one_thread() -> None:
    """Every thread has OpenMP settings of its own, which torch sets late: bits must not depend on when."""
    torch.set_num_threads(torch.get_num_threads())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _row_cost(unet: Any) -> float:
    """Floating-point operations of one row."""
    config = unet.config
    side = config.sample_size
    height, width = (side, side) if isinstance(side, int) else side
    x = torch.zeros(1, config.in_channels, height, width)
    states = torch.zeros(1, 1, config.cross_attention_dim)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        unet(x, torch.zeros(1), encoder_hidden_states=states)
    return float(counter.get_total_flops())
