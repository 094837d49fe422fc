"""How much of a device's arithmetic a training uses: its model FLOPs, and the FLOPs that the device can do (MFU).

Model FLOPs are those that the mathematics needs: the products of matrices and convolutions of one forward pass, twice
that for the backward pass. What is computed again to save memory does not count (PaLM, arXiv 2204.02311, appendix B).
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

# Dense FLOP/s of the tensor cores, from the vendor's data sheets: in bf16 or fp16, and in TF32 or fp32. The first name
# that is part of the device's counts, so longer names come first.
PEAK_FLOPS = {
    "B200": (2250e12, 1100e12), "H200": (989e12, 494e12), "H100 PCIe": (756e12, 378e12), "H100": (989e12, 494e12),
    "A100": (312e12, 156e12), "A10G": (70e12, 35e12), "L40S": (362e12, 183e12), "L4": (121e12, 60e12),
    "RTX 4090": (165e12, 83e12), "V100": (125e12, 15.7e12), "T4": (65e12, 8.1e12),
}  # fmt: skip
MEASURED_SIDE, MEASURED_S = 1024, 0.1


class FlopsCounter:
    """Counts the model FLOPs of one forward pass; a context manager."""

    def __init__(self, module: nn.Module) -> None:
        parameters = list(module.parameters())
        self._trained = sum(_size(one) for one in parameters if one.requires_grad) / sum(map(_size, parameters))
        self._mode = FlopCounterMode(display=False)

    def __enter__(self) -> None:
        self._mode.__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        self._mode.__exit__(*error)  # type: ignore[no-untyped-call]

    def step_flops(self) -> int:
        """Model FLOPs of the pass that was counted and of its backward pass."""
        # The backward pass needs the gradients of the activations, and those of the weights that are trained.
        return round(self._mode.get_total_flops() * (2 + self._trained))


def _size(parameter: nn.Parameter) -> int:
    # DeepSpeed's stage 3 leaves an empty tensor where a weight was, and notes the number of its elements.
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def peak_flops(device: torch.device, precision: str) -> float:
    """FLOP/s of a device: of a known GPU those of its data sheet, else what a product of matrices reaches now."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known, (half, single) in PEAK_FLOPS.items():
            if known in name:
                return single if precision == "fp32" else half
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    one = torch.ones(MEASURED_SIDE, MEASURED_SIDE, dtype=dtype, device=device)
    one @ one  # the first product also loads the library
    count, began = 0, time.monotonic()
    while time.monotonic() - began < MEASURED_S:
        one @ one
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        count += 1
    return 2 * MEASURED_SIDE**3 * count / (time.monotonic() - began)
