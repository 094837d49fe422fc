"""The report of a run as one self-contained HTML file."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from emoji_ldm import __version__
from emoji_ldm.config import Config
from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions.history import table_commits
from emoji_ldm.dataset.versions.refs import open_tables
from emoji_ldm.errors import DatasetError
from emoji_ldm.evaluate.nearest_neighbors import nearest_neighbors, thumbnail_vectors
from emoji_ldm.evaluate.training_summary import summarize_trainings
from emoji_ldm.schemas import TABLES
from emoji_ldm.store import Store

SHOWN_IMAGES = 24
SHOWN_GENERATED = 32


def write_report(config: Config, path: Path) -> Path:
    """Write the report of `config.run` from what the store holds; parts not made yet say which command makes them.

    Raises:
        DatasetError: The store holds no table at all.
    """
    store = Store(config.store, config.branch)
    facts = collect_report_data(config, store)
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
    environment.filters["data_uri"] = _data_uri
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(environment.get_template("report.html").render(**facts), encoding="utf-8")
    return path


def collect_report_data(config: Config, store: Store) -> dict[str, Any]:
    """Everything the report shows, as plain values."""
    tables = open_tables(config, *TABLES.values())
    present = {name: table for name, table in tables.items() if table.exists}
    if not present:
        raise DatasetError(f"nothing to report: {store.uri} holds no tables yet; begin with emoji-ldm crawl")
    return {
        "run": config.run, "store": config.store, "code": __version__, "config": config.to_yaml(),
        "counts": {name: table.count() for name, table in present.items()},
        "outcomes": _outcomes(tables["outcomes"]),
        "images": _captioned(tables["images"], tables["captions"]),
        "engines": sorted(set(tables["captions"].read(["engine"]).column(0).to_pylist())),
        "trainings": summarize_trainings(store, config.run),
        "generated": _generated(tables["generated"], tables["images"]),
        "versions": [_version_row(name, table) for name, table in present.items()],
        "stages": _stages(store, config.run),
    }  # fmt: skip


def _outcomes(table: Table) -> dict[str, list[tuple[str, int, str]]]:
    """{kind: [(outcome, count, an example reason)]}, most frequent first."""
    rows = table.read(["kind", "outcome", "reason"]).to_pylist()
    reasons = {(row["kind"], row["outcome"]): row["reason"] for row in reversed(rows)}
    counts = Counter((row["kind"], row["outcome"]) for row in rows)
    found: dict[str, list[tuple[str, int, str]]] = {}
    for (kind, outcome), count in counts.most_common():
        found.setdefault(kind, []).append((outcome, count, reasons[kind, outcome]))
    return found


def _captioned(images: Table, captions: Table) -> list[dict[str, Any]]:
    """An even sample of the crawled images with a caption each."""
    if not images.exists:
        return []
    ids = sorted(images.keys())
    chosen = ids[:: max(len(ids) // SHOWN_IMAGES, 1)][:SHOWN_IMAGES]
    located = images.locate(chosen)
    rows: list[dict[str, Any]] = images.read_located(located, ["image_id", "image", "title", "tags"]).to_pylist()
    texts = {row["image_id"]: row for row in captions.read(["image_id", "caption", "status", "reason"]).to_pylist()}
    for row in rows:
        caption = texts.get(row["image_id"], {"caption": "", "reason": "not captioned yet"})
        row["caption"] = caption["caption"] or caption["reason"]
    return rows


def _generated(generated: Table, images: Table) -> list[dict[str, Any]]:
    """The newest generated images, each beside its nearest crawled one."""
    columns = ["image", "prompt", "seed", "steps", "guidance_scale", "checkpoint"]
    rows: list[dict[str, Any]] = generated.read(columns).to_pylist()[:SHOWN_GENERATED]
    if not rows or not images.exists:
        return rows
    known = images.read(["image", "title"]).to_pylist()
    best, distance = nearest_neighbors(thumbnail_vectors(_pngs(rows)), thumbnail_vectors(_pngs(known)))
    for row, index, gap in zip(rows, best, distance, strict=True):
        row["nearest"], row["distance"] = known[index], float(gap)
    return rows


def _pngs(rows: Sequence[dict[str, Any]]) -> list[bytes]:
    return [row["image"]["bytes"] for row in rows]


def _version_row(name: str, table: Table) -> dict[str, Any]:
    commits = [entry for entry in table_commits(table) if entry["stage"]]
    newest = commits[0] if commits else {"parents": {}, "run": "", "stage": "", "time": None, "code": ""}
    return {"name": name, "rows": table.count(), "version": table.version, "num_commits": len(commits), **newest,
            "version_of_table": table.version}  # fmt: skip


def _stages(store: Store, run: str) -> list[dict[str, Any]]:
    """Per stage: seconds over all its runs, highest memory, number of runs, last summary."""
    found: dict[str, dict[str, Any]] = {}
    for name in store.list("runs", run, "stages"):
        facts = json.loads(store.read("runs", run, "stages", name))
        if facts["stage"] == "report":
            continue
        stage = found.setdefault(facts["stage"], {"seconds": 0.0, "peak_mb": 0.0, "num_runs": 0})
        stage["seconds"] += facts["seconds"]
        stage["peak_mb"] = max(stage["peak_mb"], facts["peak_mb"])
        stage["num_runs"] += 1
        stage["summary"] = facts.get("summary", {})
    return [{"stage": name, **stage} for name, stage in found.items()]


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
