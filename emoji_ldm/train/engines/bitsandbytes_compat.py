"""Private parts of bitsandbytes: the layout of AdamW's 8-bit moments, and a step that can be skipped.

A moment is stored as one byte per element, which names an entry of a table of 256 values between -1 and 1
(`qmap1`, `qmap2`), in units of a scale per block of 256 elements (`absmax1`, `absmax2`). This is block-wise dynamic
quantisation (arXiv 2110.02861, section 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from bitsandbytes.optim import AdamW8bit
from torch import Tensor

from emoji_ldm.library_compat import require_version
from emoji_ldm.train.optimizers.step_guard import StepGuard

KNOWN_VERSIONS = ("0.50",)
QUANTIZATION_BLOCK = 256  # elements that share a scale

require_version("bitsandbytes", KNOWN_VERSIONS)


class GuardedAdamW8bit(StepGuard, AdamW8bit):  # type: ignore[misc]
    """AdamW with 8-bit moments that obeys `torch_compat.set_step_guard`."""

    def make_state(self, weight: Tensor) -> None:
        """Make the moments of a parameter before its first step."""
        # The zeros are the indices of group and parameter, by which the library looks up options that were overridden
        # for one parameter. None are.
        self.init_state(self.param_groups[0], weight, 0, 0)


def dequantize(state: Mapping[str, Any], number: int) -> Tensor:
    """Moment `number` (1 or 2) as fp32: table entries times the scale of their block."""
    codes = state[f"state{number}"]
    # The last block of a tensor may be shorter than the others.
    scales = state[f"absmax{number}"].repeat_interleave(QUANTIZATION_BLOCK)[: codes.numel()]
    whole: Tensor = state[f"qmap{number}"][codes.flatten().long()].mul_(scales).view(codes.shape)
    return whole


def quantize(values: Tensor, state: Mapping[str, Any], number: int) -> None:
    """Write moment `number`; the inverse of `dequantize` but for the rounding of the scale.

    The library's own function takes the largest magnitude in a block as its scale, though its table ends at 0.993 below
    zero. Each round trip would shrink a block whose largest magnitude is a negative value.
    """
    codes, scales, table = (state[f"{part}{number}"] for part in ("state", "absmax", "qmap"))
    # The zeros that fill up the last block leave its scale as it is.
    padding = (0, -values.numel() % QUANTIZATION_BLOCK)
    flat = torch.nn.functional.pad(values.flatten(), padding).view(-1, QUANTIZATION_BLOCK)
    # This is the smallest scale with which the largest and the smallest value of a block are both inside the table,
    # whose ends differ. The table of the second moment has no negative entries: the clamps keep its end from dividing
    # by zero, and the scale from being negative.
    scales.copy_(torch.maximum(flat.amax(1) / table.max(), flat.amin(1) / table.min().clamp(max=-1e-9)).clamp(min=0))
    # A block of zeros has scale 0, by which nothing can be divided.
    relative = flat / scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    # The borders between neighbouring entries are the midpoints, so this finds the nearest entry.
    nearest = torch.bucketize(relative, (table[1:] + table[:-1]) / 2)
    codes.copy_(nearest.flatten()[: values.numel()].view(codes.shape))
