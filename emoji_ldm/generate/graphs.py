"""A forward pass as one CUDA graph: a small network's hundreds of kernels start with one call."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Inputs = tuple[Tensor, Tensor, Tensor]  # samples (n, C, h, w), timesteps (n,), token states (n, tokens, width)
Forward = Callable[[Inputs], Tensor]


class Graph:
    """A captured pass at one shape; the same kernels, and so the same bits, as the pass itself."""

    def __init__(self, forward: Forward, inputs: Inputs) -> None:
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

    def __call__(self, inputs: Inputs) -> Tensor:
        """The output of other inputs of the shape."""
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._output.clone()

    def _own(self) -> Inputs:
        x, timesteps, states = self._inputs
        return x, timesteps, states
