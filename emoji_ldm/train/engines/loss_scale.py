"""The loss scale of fp16, whose smallest numbers are larger than many gradients (arXiv 1710.03740, section 3.2).

The loss is multiplied by the scale, so the gradients are as well; the optimiser divides them again. A scale that is too
large makes gradients overflow: that step is skipped, and the scale halved. After many good steps it is doubled. Scale
and count live on the device, where `guard_step` decides what is skipped, so the host never waits for them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

FIRST_SCALE = 2.0**16  # as that of `torch.amp.GradScaler`: it comes down by one half per step
GROWTH_INTERVAL = 2000  # good steps in a row, after which the scale is doubled
MAX_SCALE = 2.0**24  # beyond it fp32 sums of scaled gradients lose nothing more, and could overflow
NAMES = ("loss_scale", "good_steps")  # in checkpoints
FIRST_SCALARS = dict(zip(NAMES, (FIRST_SCALE, 0.0), strict=True))


class LossScale:
    """A scale that adapts itself; with other precisions than fp16 it stays 1."""

    def __init__(self, precision: str, device: torch.device) -> None:
        self.is_dynamic = precision == "fp16"
        self.value = torch.tensor(FIRST_SCALE if self.is_dynamic else 1.0, device=device)
        self.good_steps = torch.tensor(0.0, device=device)

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to call `backward` of."""
        return loss * self.value if self.is_dynamic else loss

    def unscaled(self, norm: Tensor) -> Tensor:
        """The norm of the gradients without the scale; not finite if they overflowed."""
        return norm / self.value if self.is_dynamic else norm

    def update(self, norm: Tensor) -> None:
        """Adapt the scale to a step whose gradients had this norm."""
        if not self.is_dynamic:
            return
        good = norm.isfinite()
        grows = good & (self.good_steps + 1 >= GROWTH_INTERVAL)
        factor = torch.where(good, torch.where(grows, 2.0, 1.0), 0.5)
        self.value = (self.value * factor).clamp(min=1.0, max=MAX_SCALE)
        self.good_steps = torch.where(good & ~grows, self.good_steps + 1, 0.0)

    @property
    def scalars(self) -> dict[str, float]:
        """What a checkpoint stores; nothing for other precisions."""
        values = (float(self.value), float(self.good_steps))
        return dict(zip(NAMES, values, strict=True)) if self.is_dynamic else {}

    def load(self, scalars: Mapping[str, float]) -> None:
        """Take over what a checkpoint stored; one of another precision has nothing, and the scale stays as it is."""
        if self.is_dynamic and NAMES[0] in scalars:
            self.value.fill_(scalars[NAMES[0]])
            self.good_steps.fill_(scalars[NAMES[1]])
