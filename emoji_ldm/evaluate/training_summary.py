"""The trainings of a run for its report: figures, curves, sample grids and warnings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from emoji_ldm.evaluate.svg_chart import Curve, Points, draw_line_chart, moving_average
from emoji_ldm.store import Store
from emoji_ldm.train.metrics.training_metrics import summarize_log

SHOWN_SAMPLES = 6
SHOWN_WARNINGS = 20
LIGHT_ORANGE, ORANGE, BLUE, GREEN = "#f3b391", "#d9480f", "#1c7ed6", "#2b8a3e"

TrainingLog = Sequence[Mapping[str, Any]]


def summarize_trainings(store: Store, run: str) -> dict[str, dict[str, Any]]:
    """What a run trained, as {section: {"steps", "rows", "charts", "samples", "pairs", "warnings"}}."""
    found = {}
    for section in ("train", "autoencoder"):
        if log := _read_log(store, run, section):
            found[section] = {
                "steps": int(log[-1]["step"]), "rows": _rows(log), "charts": _charts(log),
                "samples": _grids(store, run, section, "samples"), "pairs": _grids(store, run, section, "pairs")[-1:],
                "warnings": _warnings(log),
            }  # fmt: skip
    return found


def _read_log(store: Store, run: str, section: str) -> list[dict[str, Any]]:
    """The lines of a training's log; one that is still being written is left out."""
    if not store.exists("runs", run, section, "losses.jsonl"):
        return []
    text = store.read("runs", run, section, "losses.jsonl").decode()
    # A report may be made while the training runs, so the last line may lack its end.
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def _rows(log: TrainingLog) -> list[tuple[str, str]]:
    """The figures that people ask for first, as (name, value)."""
    last = log[-1]
    # Logs of older releases have no times, and a resumed training may have continued such a log.
    has_times = all("step_s" in line and "time_s" in line for line in log)
    summary = summarize_log(log) if has_times else {}
    rows = [("steps", f"{int(last['step']):,}")]
    if summary:
        rows.append(("images/s", f"{summary['images_per_s']:,.1f}"))
        rows.append(("step time", f"{1000 * summary['step_s']:,.0f} ms"))
        rows.append(("waiting for data", f"{100 * summary['data_wait']:.1f} %"))
    if "loss_first" in summary:
        rows.append(("loss, first to last", f"{summary['loss_first']:.4f} to {summary['loss_last']:.4f}"))
    if "validation_loss_best" in summary:
        best = f"{summary['validation_loss_best']:.4f} at step {summary['validation_loss_best_step']:,}"
        rows.append(("best validation loss", best))
    if "skipped" in last:
        rows.append(("skipped steps", f"{last['skipped']:,}"))
    if "memory_mb" in last:
        rows.append(("memory per rank", " / ".join(f"{value:,}" for value in last["memory_mb"]) + " MB"))
    return rows


def _charts(log: TrainingLog) -> list[dict[str, Any]]:
    """Charts over steps, as name, curves (for the legend) and SVG; those without data are left out."""
    loss = [
        *_raw_and_mean(_points(log, "loss"), "training, each log line"),
        Curve("validation", "validation", _points(log, "validation_loss"), BLUE, markers=True),
        Curve("validation-ema", "validation, averaged weights", _points(log, "validation_loss_ema"), GREEN,
              markers=True),
    ]  # fmt: skip
    norm = _raw_and_mean(_points(log, "grad_norm"), "median of the steps of a log line")
    charts = [_chart("Loss", "loss", loss), _chart("Gradient norm", "gradient norm", norm)]
    return [chart for chart in charts if chart["svg"]]


def _chart(name: str, y_label: str, curves: list[Curve]) -> dict[str, Any]:
    curves = [curve for curve in curves if curve.points]
    # Curves without points were left out above, so the legend names only lines that are drawn.
    return {"name": name, "curves": curves, "svg": draw_line_chart(curves, x_label="step", y_label=y_label)}


def _raw_and_mean(points: Points, label: str) -> list[Curve]:
    """A thin line of the points, and a thick one of their moving average over a twentieth of the log."""
    # At least two points, or the mean would repeat the raw line.
    mean = moving_average(points, max(len(points) // 20, 2))
    return [Curve("raw", label, points, LIGHT_ORANGE, 1.0), Curve("mean", "moving average", mean, ORANGE, 2.5)]


def _points(log: TrainingLog, name: str) -> list[tuple[float, float]]:
    return [(line["step"], line[name]) for line in log if name in line]


def _grids(store: Store, run: str, section: str, kind: str) -> list[tuple[int, bytes]]:
    """(step, PNG) of `samples` or `pairs`, evenly chosen from the first to the last."""
    names = [name for name in store.list("runs", run, section, kind) if name.endswith(".png")]
    last = SHOWN_SAMPLES - 1
    # First and last are always among them, as the reader wants to see where the training began and what came of it.
    chosen = [names[round(i * (len(names) - 1) / last)] for i in range(SHOWN_SAMPLES)] if len(names) > last else names
    return [(int(name[5:-4]), store.read("runs", run, section, kind, name)) for name in chosen]


def _warnings(log: TrainingLog) -> list[str]:
    """One line for each skipped step and each note of the log, such as a failed tracker; the first few of them."""
    found = [f"step {step}: skipped, its gradient norm was {norm}" for line in log
             for step, norm in line.get("bad", {}).items()]  # fmt: skip
    found += [f"step {line['step']}: {note}" for line in log for note in line.get("notes", [])]
    # A diverging training may skip thousands of steps, which would bury everything else on the page.
    num_more = len(found) - SHOWN_WARNINGS
    return found[:SHOWN_WARNINGS] + ([f"and {num_more} more"] if num_more > 0 else [])
