"""An evaluation as one self-contained HTML page: figures first, then pictures on a ground that can be changed."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2

from emoji_ldm.evaluate.evaluation import EvaluatedSystem, Evaluation
from emoji_ldm.evaluate.figures import FIGURES, Figures

NOVELTIES = {
    "pair": "held out: its concept was trained on in other styles only",
    "concept": "held out: its concept was not trained on",
    "seen": "held out: its concept was trained on",
}
INTERVAL_ENDS = ("kid_low", "kid_high")  # shown in the row of the figure itself


@dataclass(frozen=True)
class PageRow:
    """One prompt with its pictures."""

    title: str  # cell of the grid, or how new the prompt is
    prompt: str
    truth: bytes | None  # PNG of the real picture
    pictures: Mapping[str, Sequence[bytes]]  # {system: PNG files}


def figure_groups(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The figures as rows of a table, by group; what was measured of no system is left out."""
    shown = [name for name in FIGURES if name not in INTERVAL_ENDS and _is_measured(name, evaluation)]
    return [
        {"group": group, "rows": [_figure_row(name, evaluation) for name in names]}
        for group, names in groupby(shown, key=lambda name: FIGURES[name].group)
    ]


def render_page(evaluation: Evaluation, rows: Sequence[PageRow]) -> str:
    """The page as HTML."""
    # Autoescape, as prompts come from captions of web pages and must not become HTML of this page.
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
    environment.filters["data_uri"] = data_uri
    template = environment.get_template("evaluation.html")
    return template.render(
        evaluation=evaluation, groups=figure_groups(evaluation), rows=rows,
        grid=_grid_rows(evaluation.systems), novelties=NOVELTIES,
        # A model and a search of the training pictures have different settings.
        settings=list(dict.fromkeys(name for system in evaluation.systems for name in system.settings)),
    )  # fmt: skip


def data_uri(png: bytes) -> str:
    """A PNG file as the address of an image in HTML."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _grid_rows(systems: Sequence[EvaluatedSystem]) -> list[dict[str, Any]]:
    names = [name for name in FIGURES if any(system.grid.get(name) is not None for system in systems)]
    return [
        {"label": FIGURES[name].label, "cells": [FIGURES[name].text(system.grid.get(name)) for system in systems]}
        for name in names
    ]


def _is_measured(name: str, evaluation: Evaluation) -> bool:
    return any(system.figures.get(name) is not None for system in evaluation.systems)


def _figure_row(name: str, evaluation: Evaluation) -> dict[str, Any]:
    kind = FIGURES[name]
    values = [system.figures.get(name) for system in evaluation.systems]
    known = [value for value in values if value is not None]
    # A best one exists only among several that differ.
    best = (min(known) if kind.better == "low" else max(known)) if kind.better and len({*known}) > 1 else None
    cells = [
        {
            "text": kind.text(system.figures.get(name)),
            "interval": _interval(name, system.figures),
            "best": best is not None and system.figures.get(name) == best,
        }
        for system in evaluation.systems
    ]
    real = {"real": kind.text(evaluation.real.get(name)), "real_interval": _interval(name, evaluation.real)}
    return {"label": kind.label, "meaning": kind.meaning, "better": kind.better, "cells": cells, **real}


def _interval(name: str, figures: Figures) -> str:
    low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
    kind = FIGURES[name]
    return f"{kind.text(low)} to {kind.text(high)}" if low is not None and high is not None else ""
