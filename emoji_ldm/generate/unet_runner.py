"""A forward pass as one CUDA graph: a small network's hundreds of kernels start with one call.

The U-Net at the shapes of a mode: one for ever in strict mode, as many rows as there are in fast mode.

Kernels, and with them the last bits of a result, are chosen by shape. Strict mode therefore cuts the rows into
passes of one shape, the last padded: a row's bits depend on no neighbour, no slot and no number of rows. On CPUs
passes run side by side in threads of one core each, which changes no bit either. On GPUs there is one pass, its
shapes are captured as CUDA graphs before the first picture, and `same_kernels` is to be called first of all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

UNetInputs = tuple[Tensor, Tensor, Tensor]  # samples (n, C, h, w), timesteps (n,), token states (n, tokens, width)
Forward = Callable[[UNetInputs], Tensor]


class CapturedForward:
    """A captured pass at one shape; the same kernels, and so the same bits, as the pass itself."""

    def __init__(self, forward: Forward, inputs: UNetInputs) -> None:
        """Capture; `inputs` are examples of the shape."""
        self._inputs = tuple(part.clone() for part in inputs)
        self._graph = torch.cuda.CUDAGraph()
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(3):  # libraries choose their kernels and set aside memory in the first calls
                forward(self._own())
        torch.cuda.current_stream().wait_stream(beside)
        # Other threads may go on drawing meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._output = forward(self._own())

    def __call__(self, inputs: UNetInputs) -> Tensor:
        """The output of other inputs of the shape."""
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._output.clone()

    def _own(self) -> UNetInputs:
        x, timesteps, states = self._inputs
        return x, timesteps, states


class UNetRunner:
    """Calls of one U-Net; not safe to use from two threads at once."""

    def __init__(self, unet: Any, batch_size: int, *, strict: bool) -> None:
        """Settle the shapes for up to `batch_size` pictures, each with and without its prompt."""
        self.unet, self.strict, self.batch_size = unet, strict, batch_size
        self.device: torch.device = unet.device
        self.dtype: torch.dtype = unet.dtype  # asked once: it looks through all modules
        self.on_cpu = self.device.type == "cpu"
        beside = self.on_cpu and _num_cores() > 1 and torch.get_num_threads() == 1
        self._pool = ThreadPoolExecutor(1, "pass", initializer=apply_num_threads) if beside else None
        # Rows from which on two passes are quicker, in fast mode.
        self.split_from = 2 if beside else self.most + 1
        self._graphs: dict[torch.Size, CapturedForward] = {}

    @property
    def most(self) -> int:
        """Rows that there ever are."""
        return 2 * self.batch_size

    def passes(self, count: int, most: int = 0) -> list[int]:
        """Rows of each of the one or two passes that compute `count` rows; what they add up to more is padding.

        Args:
            count: Rows, up to two per picture.
            most: Pictures that a tick can hold, which in strict mode decides the bits; 0 means `batch_size`.
        """
        most = most or self.batch_size
        if self.strict:
            rows = most if self.on_cpu else 2 * most
            return [rows] * -(-count // rows)
        if not self.on_cpu:
            return [min(2 * most, 1 << (count - 1).bit_length())]
        return [count] if count < self.split_from else [count - count // 2, count // 2]

    def __call__(self, inputs: UNetInputs, passes: Sequence[int]) -> Tensor:
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
                self._graphs[x.shape] = CapturedForward(self._forward, inputs)

    @torch.inference_mode()
    def _forward(self, inputs: UNetInputs) -> Tensor:
        x, timesteps, states = inputs
        if (graph := self._graphs.get(x.shape)) is not None:
            return graph(inputs)
        x, states = x.to(self.dtype), states.to(self.dtype)  # rows are float32 whatever the weights are
        output: Tensor = self.unet(x, timesteps, encoder_hidden_states=states, return_dict=False)[0]
        return output.float()


def apply_num_threads() -> None:
    """Every thread has OpenMP settings of its own, which torch sets late: bits must not depend on when."""
    torch.set_num_threads(torch.get_num_threads())


def use_deterministic_kernels() -> None:
    """Let this process compute on its GPU by kernels whose results are the same each time.

    To be called before the first computation. The settings are the process's: threads that set them for the time of
    a call would undo each other's.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, when cuBLAS starts
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Nothing reads such memory, and filling it takes time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
