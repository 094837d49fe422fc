"""Summary of a training log. It must not import torch, as the report uses it too."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def summarize_log(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """First, last and best losses, and median rates; the first line is left out of these, as it includes warm-up.

    Returns:
        loss_first, loss_last, images_per_s, step_s, data_wait, time_s; where measured also validation_loss_first,
        _last and _best, and the step of the best as validation_loss_best_step. Empty without lines.
    """
    if not lines:
        return {}
    # Compilation, memory allocation and the choice of kernels take place in the first window.
    warm = lines[1:] or lines
    losses = [line["loss"] for line in lines if "loss" in line]
    found: dict[str, Any] = {"loss_first": losses[0], "loss_last": losses[-1]} if losses else {}
    # A median is used because a few slow windows, such as those with a validation, would distort a mean.
    for name in ("images_per_s", "step_s", "data_wait"):
        found[name] = statistics.median(line[name] for line in warm)
    measured = [(line["validation_loss"], line["step"]) for line in lines if "validation_loss" in line]
    if measured:
        best = min(measured)
        found |= {"validation_loss_first": measured[0][0], "validation_loss_last": measured[-1][0],
                  "validation_loss_best": best[0], "validation_loss_best_step": int(best[1])}  # fmt: skip
    return found | {"time_s": lines[-1]["time_s"]}
