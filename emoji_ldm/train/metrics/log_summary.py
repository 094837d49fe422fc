"""What the log of a training sums up to; light, as the report needs it too."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def summarize_log(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a log sums up to: rates are medians, without the first line, in which things are compiled and warmed up.

    Returns:
        loss_first, loss_last, images_per_s, step_s, data_wait, time_s; if measured validation_loss_first, _last and
        _best, the step of the best as validation_loss_best_step; nothing for no line.
    """
    if not lines:
        return {}
    warm = lines[1:] or lines
    losses = [line["loss"] for line in lines if "loss" in line]
    found: dict[str, Any] = {"loss_first": losses[0], "loss_last": losses[-1]} if losses else {}
    for name in ("images_per_s", "step_s", "data_wait"):
        found[name] = statistics.median(line[name] for line in warm)
    checked = [(line["validation_loss"], line["step"]) for line in lines if "validation_loss" in line]
    if checked:
        best = min(checked)
        found |= {"validation_loss_first": checked[0][0], "validation_loss_last": checked[-1][0],
                  "validation_loss_best": best[0], "validation_loss_best_step": int(best[1])}  # fmt: skip
    return found | {"time_s": lines[-1]["time_s"]}
