"""The trainings of a run for its report: figures, curves, sample grids."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from emoji_ldm.evaluate.svg_chart import Curve, draw_line_chart, moving_average
from emoji_ldm.store import Store
from emoji_ldm.train.metrics.log_summary import summarize_log

SHOWN_SAMPLES = 6
SHOWN_WARNINGS = 20

TrainingLog = Sequence[Mapping[str, Any]]


def summarize_trainings(store: Store, run: str) -> dict[str, dict[str, Any]]:
    """{section: rows, charts, samples, pairs, troubles, steps} of what was trained."""
    found = {}
    for section in ("train", "autoencoder"):
        if lines := _read_log(store, run, section):
            found[section] = {
                "steps": int(lines[-1]["step"]), "rows": _rows(lines), "charts": _charts(lines),
                "samples": _grids(store, run, section, "samples"), "pairs": _grids(store, run, section, "pairs")[-1:],
                "troubles": _warnings(lines),
            }  # fmt: skip
    return found


def _read_log(store: Store, run: str, section: str) -> list[dict[str, Any]]:
    if not store.exists("runs", run, section, "losses.jsonl"):
        return []
    text = store.read("runs", run, section, "losses.jsonl").decode()
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def _rows(lines: TrainingLog) -> list[tuple[str, str]]:
    """What people ask first, as (name, value)."""
    complete = all("step_s" in line and "time_s" in line for line in lines)
    known = summarize_log(lines) if complete else {}
    rows = [("steps", f"{int(lines[-1]['step']):,}")]
    if known:
        rows.append(("images/s", f"{known['images_per_s']:,.1f}"))
        rows.append(("step time", f"{1000 * known['step_s']:,.0f} ms"))
        rows.append(("waiting for data", f"{100 * known['data_wait']:.1f} %"))
    if "loss_first" in known:
        rows.append(("loss, first to last", f"{known['loss_first']:.4f} to {known['loss_last']:.4f}"))
    if "validation_loss_best" in known:
        best = f"{known['validation_loss_best']:.4f} at step {known['validation_loss_best_step']:,}"
        rows.append(("best validation loss", best))
    if "skipped" in lines[-1]:
        rows.append(("skipped steps", f"{lines[-1]['skipped']:,}"))
    if "memory_mb" in lines[-1]:
        rows.append(("memory per rank", " / ".join(f"{value:,}" for value in lines[-1]["memory_mb"]) + " MB"))
    return rows


def _charts(lines: TrainingLog) -> list[dict[str, Any]]:
    """Curves over steps: name, SVG, and the legend as (class, words)."""
    loss = _points(lines, "loss")
    held, averaged = _points(lines, "validation_loss"), _points(lines, "validation_loss_ema")
    curves = [Curve(loss, "raw"), Curve(moving_average(loss, max(len(loss) // 20, 2)), "mean"),
              Curve(held, "held"), Curve(averaged, "held-ema")]  # fmt: skip
    legend = [("raw", "training, each log line"), ("mean", "moving average")]
    legend += [("held", "held out")] if held else []
    legend += [("held-ema", "held out, averaged weights")] if averaged else []
    norm = _points(lines, "grad_norm")
    smoothed = Curve(moving_average(norm, max(len(norm) // 20, 2)), "mean")
    found = [
        {"name": "Loss", "svg": draw_line_chart(curves, x_label="step", y_label="loss"), "legend": legend},
        {"name": "Gradient norm", "svg": draw_line_chart([Curve(norm, "raw"), smoothed], x_label="step", y_label="gradient norm"),
         "legend": [("raw", "median of the steps of a log line"), ("mean", "moving average")]},
    ]  # fmt: skip
    return [one for one in found if one["svg"]]


def _points(lines: TrainingLog, name: str) -> list[tuple[float, float]]:
    return [(line["step"], line[name]) for line in lines if name in line]


def _grids(store: Store, run: str, section: str, kind: str) -> list[tuple[int, bytes]]:
    """(step, PNG) of `samples` or `pairs`, a few from first to last."""
    names = [name for name in store.list("runs", run, section, kind) if name.endswith(".png")]
    last = SHOWN_SAMPLES - 1
    chosen = [names[round(i * (len(names) - 1) / last)] for i in range(SHOWN_SAMPLES)] if len(names) > last else names
    return [(int(name[5:-4]), store.read("runs", run, section, kind, name)) for name in chosen]


def _warnings(lines: TrainingLog) -> list[str]:
    """Skipped steps and failed trackers, a line each, the first ones."""
    found = [f"step {step}: skipped, its gradient norm was {norm}" for line in lines
             for step, norm in line.get("bad", {}).items()]  # fmt: skip
    found += [f"step {line['step']}: {note}" for line in lines for note in line.get("notes", [])]
    more = len(found) - SHOWN_WARNINGS
    return found[:SHOWN_WARNINGS] + ([f"and {more} more"] if more > 0 else [])
