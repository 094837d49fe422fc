"""A mixin for optimisers without a fused kernel: a step that divides gradients, or that is skipped."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from emoji_ldm.model.torch_compat import divide_tensors


class StepGuard:
    """Obeys `torch_compat.set_step_guard`; put it before the optimiser's class.

    It asks the device whether to skip, so the host waits for the gradients. Only the fused AdamW decides on the device.
    """

    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None
    param_groups: list[dict[str, Any]]

    def step(self, closure: Any = None) -> Any:
        """Make a step, or none."""
        scale, skip = self.grad_scale, self.found_inf
        if skip is not None and bool(skip):
            return None
        if scale is not None:
            gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
            divide_tensors(gradients, scale)
        # Torch's own optimisers look for these attributes too, and those without a fused kernel refuse them. ZeRO stage
        # 3 calls `step` once per group of weights, so they are put back for the next call.
        self.grad_scale = self.found_inf = None
        try:
            return super().step(closure)  # type: ignore[misc]
        finally:
            self.grad_scale, self.found_inf = scale, skip
