"""Generates the Grafana dashboards in k8s/components/monitoring/boards: `python infra/boards.py`.

The project's own dashboards are described in boards.yaml; those of Ray are taken from the installed wheel, so that they
fit the pinned version. A dashboard is a grid of 24 columns, which panels fill from left to right in the order in which
they are described.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
TARGET = HERE.parent / "k8s" / "components" / "monitoring" / "boards"
RAY = ("default", "data", "serve", "serve_deployment", "train")  # without those for language models
FILTER = 'ray_io_cluster=~"$Cluster"'
COLUMNS = 24
SIZES = {"stat": (6, 4), "timeseries": (8, 8), "bargauge": (12, 8)}  # type: width, height
SOURCE = {"type": "prometheus", "uid": "${datasource}"}

Json = dict[str, Any]


def boards() -> dict[str, str]:
    """The text of every dashboard by file name, with one panel per line, so that diffs are readable."""
    described = yaml.safe_load((HERE / "boards.yaml").read_text())
    dashboards = {f"emoji-{name}.json": ours(name, board) for name, board in described.items()}
    dashboards |= {f"ray-{name.replace('_', '-')}.json": rays(name) for name in RAY}
    return {name: _text(board) for name, board in dashboards.items()}


def ours(name: str, described: Json) -> Json:
    """A dashboard of this project, from its description in boards.yaml."""
    return {
        "uid": f"emoji-ldm-{name}", "title": described["title"], "tags": ["emoji-ldm"], "schemaVersion": 39,
        "editable": False, "refresh": "30s", "graphTooltip": 1, "timezone": "utc", "version": 1,
        "time": {"from": f"now-{described.get('span', '6h')}", "to": "now"}, "annotations": {"list": []}, "links": [],
        "templating": {"list": [*_variables(described["clusters"]), *map(_textbox, described.get("inputs", []))]},
        "panels": _laid_out(described["panels"]),
    }  # fmt: skip


def rays(name: str) -> Json:
    """A dashboard of Ray, with the variable `Cluster` added if it has none."""
    from ray.dashboard.modules.metrics import grafana_dashboard_factory as factory

    plain = _generate(factory, name)
    if any(variable["name"] == "Cluster" for variable in plain["templating"]["list"]):
        return plain
    override = factory.GRAFANA_DASHBOARD_GLOBAL_FILTERS_OVERRIDE_ENV_VAR_TEMPLATE.format(name=name.upper())
    # Ray reads the filter of its queries from this variable only.
    os.environ[override] = FILTER
    try:
        board = _generate(factory, name)
    finally:
        del os.environ[override]
    board["templating"]["list"] += _variables("ray_node_cpu_count")[1:]
    return board


def _generate(factory: Any, name: str) -> Json:
    return dict(json.loads(getattr(factory, f"generate_{name}_grafana_dashboard")()[0]))


def _variables(metric: str) -> list[Json]:
    """The variables of a dashboard: its data source, and the clusters that export a metric."""
    query = f"label_values({metric}, ray_io_cluster)"
    return [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "hide": 2, "refresh": 1},
        {"name": "Cluster", "type": "query", "datasource": SOURCE, "definition": query, "query": {"query": query},
         "refresh": 2, "includeAll": True, "multi": True, "sort": 1,
         "current": {"text": "All", "value": "$__all"}},
    ]  # fmt: skip


def _textbox(described: Json) -> Json:
    value = str(described["value"])
    return {"name": described["name"], "label": described["label"], "type": "textbox", "query": value,
            "current": {"text": value, "value": value}}  # fmt: skip


def _laid_out(described: list[Json]) -> list[Json]:
    """Panels with their positions: a row title occupies a line of its own, other panels share a line."""
    panels: list[Json] = []
    x = y = height = 0
    for number, one in enumerate(described, 1):
        kind = "row" if "row" in one else one.get("type", "timeseries")
        wide, high = (COLUMNS, 1) if kind == "row" else SIZES[kind]
        if x + wide > COLUMNS or kind == "row":
            x, y, height = 0, y + height, 0
        position = {"x": x, "y": y, "w": wide, "h": high}
        panels.append({"id": number, "gridPos": position, **(_row(one) if kind == "row" else _panel(kind, one))})
        x, height = x + wide, max(height, high)
    return panels


def _row(one: Json) -> Json:
    return {"type": "row", "title": one["row"], "collapsed": False, "panels": []}


def _panel(kind: str, one: Json) -> Json:
    look: Json = {"unit": one["unit"], "min": 0, "thresholds": _thresholds(one)}
    options: Json = {"reduceOptions": {"calcs": ["lastNotNull"]}}
    if kind == "timeseries":
        look["custom"] = {"fillOpacity": 10, "showPoints": "never", "stacking": {"mode": one.get("stack", "none")}}
        options = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    targets = [_target(index, *shown) for index, shown in enumerate(one["show"].items())]
    return {"type": kind, "title": one["title"], "description": one["why"], "datasource": SOURCE, "targets": targets,
            "fieldConfig": {"defaults": look, "overrides": []}, "options": options}  # fmt: skip


def _target(index: int, legend: str, expr: str) -> Json:
    """A query. One over the whole time range is evaluated once instead of at every point of it."""
    is_instant = "$__range" in expr
    return {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": expr, "legendFormat": legend or "__auto",
            "instant": is_instant, "range": not is_instant}  # fmt: skip


def _thresholds(one: Json) -> Json:
    """Green, and red from the value `bad` on, which is the threshold of the alert."""
    steps: list[Json] = [{"color": "green", "value": None}]
    return {"mode": "absolute", "steps": steps + ([{"color": "red", "value": one["bad"]}] if "bad" in one else [])}


def _text(board: Json) -> str:
    panels = ",\n".join(json.dumps(panel, separators=(",", ":")) for panel in board["panels"])
    rest = json.dumps(board | {"panels": ["PANELS"]}, separators=(",", ":"))
    return rest.replace('["PANELS"]', f"[\n{panels}\n]") + "\n"


if __name__ == "__main__":
    TARGET.mkdir(exist_ok=True)
    texts = boards()
    for old in TARGET.glob("*.json"):
        if old.name not in texts:
            old.unlink()
    for file_name, text in texts.items():
        (TARGET / file_name).write_text(text)
    print(f"wrote {len(texts)} boards to {TARGET.relative_to(HERE.parent)}")
