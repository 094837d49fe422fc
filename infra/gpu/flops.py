"""Floating-point operations that a network needs, and those that a device can do."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

# Dense bf16 operations per second by the vendor's data sheets, without sparsity; the first name that occurs counts.
PEAK_BF16 = {
    "B200": 2250e12, "GH200": 989e12, "H200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12,
    "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10": 125e12, "RTX 4090": 165e12, "RTX 3090": 71e12,
}  # fmt: skip


def count_flops(step: Callable[[], Tensor]) -> int:
    """Operations of `step` and of the backward pass of the scalar that it returns; products count as two."""
    with FlopCounterMode(display=False) as counter:
        step().backward()  # type: ignore[no-untyped-call]
    return int(counter.get_total_flops())


def peak_flops(device: torch.device) -> float | None:
    """The device's peak in bf16 by its name; None if the table does not know it."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((peak for key, peak in PEAK_BF16.items() if key in name), None)


def matmul_flops(device: torch.device, size: int = 8192, repeats: int = 10) -> float:
    """Operations per second of a square bf16 product of random matrices: the most that kernels of here reach."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for timed in (3, repeats):  # the first round chooses kernels and wakes the clocks
        synchronize(device)
        began = time.perf_counter()
        for _ in range(timed):
            left @ right
        synchronize(device)
    return 2 * size**3 * repeats / (time.perf_counter() - began)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
