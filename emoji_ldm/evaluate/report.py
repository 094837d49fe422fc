"""The report of a run as one self-contained HTML file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2

from emoji_ldm import __version__
from emoji_ldm.config import Config
from emoji_ldm.dataset.delta.delta_log import log_entries
from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions.history import table_commits
from emoji_ldm.dataset.versions.refs import open_tables
from emoji_ldm.errors import DatasetError
from emoji_ldm.evaluate.evaluation import newest_evaluation
from emoji_ldm.evaluate.evaluation_page import data_uri, figure_groups
from emoji_ldm.evaluate.metrics.nearest_neighbors import nearest_neighbors, thumbnail_vectors
from emoji_ldm.evaluate.training_summary import summarize_trainings
from emoji_ldm.schemas import TABLES
from emoji_ldm.store import Store

SHOWN_IMAGES = 24
SHOWN_GENERATED = 32
DEMO_SHEET = "starter.png"  # of the demo, below runs/<run>: models trained from scratch and fine-tuned, and the starter
GENERATED_COLUMNS = ("image", "prompt", "seed", "steps", "guidance_scale", "checkpoint")


def write_report(config: Config, path: Path) -> Path:
    """Write the report of `config.run` from what the store holds.

    A part that has no data yet names the command that makes it.

    Raises:
        DatasetError: The store holds no table at all.
    """
    store = Store(config.store, config.branch)
    data = collect_report_data(config, store)
    # Autoescape, as captions, titles and reasons come from web pages and must not become HTML of the report.
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
    environment.filters["data_uri"] = data_uri
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(environment.get_template("report.html").render(**data), encoding="utf-8")
    return path


def collect_report_data(config: Config, store: Store) -> dict[str, Any]:
    """Everything that the report shows, by the names that the template uses."""
    tables = open_tables(store, config.as_of, *TABLES.values())
    present = {name: table for name, table in tables.items() if table.exists}
    if not present:
        raise DatasetError(f"nothing to report: {store.uri} holds no tables yet; begin with emoji-ldm crawl")
    return {
        "run": config.run, "store": config.store, "code": __version__, "config": config.to_yaml(),
        "counts": {name: table.count() for name, table in present.items()},
        "outcomes": _outcomes(tables["outcomes"]),
        "images": _captioned(tables["images"], tables["captions"]),
        "engines": sorted(set(tables["captions"].read(["engine"]).column(0).to_pylist())),
        **_evaluated(store, config.run),
        "trainings": summarize_trainings(store, config.run),
        **_generated(tables["generated"], tables["images"], config.run),
        "versions": [_version_row(name, table) for name, table in present.items()],
        "stages": _stages(store, config.run),
        "sheet": _demo_sheet(store, config.run),
    }  # fmt: skip


def _evaluated(store: Store, run: str) -> dict[str, Any]:
    """The newest evaluation of the run, and its figures as a table."""
    evaluation = newest_evaluation(store, run)
    return {"evaluation": evaluation, "figure_groups": figure_groups(evaluation) if evaluation else []}


def _outcomes(table: Table) -> dict[str, list[tuple[str, int, str]]]:
    """{kind: [(outcome, count, example of a reason)]}, most frequent first."""
    rows = table.read(["kind", "outcome", "reason"]).to_pylist()
    # Reversed, so that the first reason of each outcome wins.
    reasons = {(row["kind"], row["outcome"]): row["reason"] for row in reversed(rows)}
    counts = Counter((row["kind"], row["outcome"]) for row in rows)
    found: dict[str, list[tuple[str, int, str]]] = {}
    for (kind, outcome), count in counts.most_common():
        found.setdefault(kind, []).append((outcome, count, reasons[kind, outcome]))
    return found


def _captioned(images: Table, captions: Table) -> list[dict[str, Any]]:
    """An even sample of the crawled images, each with its caption or the reason why it has none."""
    if not images.exists:
        return []
    ids = sorted(images.keys())
    # Sorted by id, so that the same table always shows the same images. Ids are hashes, so their order says nothing
    # about what the images show.
    chosen = ids[:: max(len(ids) // SHOWN_IMAGES, 1)][:SHOWN_IMAGES]
    located = images.locate(chosen)
    rows: list[dict[str, Any]] = images.read_located(located, ["image_id", "image", "title", "tags"]).to_pylist()
    texts = {row["image_id"]: row for row in captions.read(["image_id", "caption", "status", "reason"]).to_pylist()}
    for row in rows:
        caption = texts.get(row["image_id"], {"caption": "", "reason": "not captioned yet"})
        row["caption"] = caption["caption"] or caption["reason"]
    return rows


def _generated(generated: Table, images: Table, run: str) -> dict[str, Any]:
    """The newest generated images of a run, newest first, each with the crawled image nearest to it.

    Where the table has no file of the run (it generated nothing new, or compaction merged its files with others'), the
    newest images of the table are shown, and the page says so.
    """
    own = _files_of_run(generated, run)
    rows = _newest_rows(generated, own or reversed(generated.live_files()))
    if rows and images.exists:
        # Every crawled image is a candidate: a copy of a single training image is what this comparison is to find.
        known = images.read(["image", "title"]).to_pylist()
        best, distance = nearest_neighbors(thumbnail_vectors(_pngs(rows)), thumbnail_vectors(_pngs(known)))
        for row, index, gap in zip(rows, best, distance, strict=True):
            row["nearest"], row["distance"] = known[index], float(gap)
    return {"generated": rows, "generated_by_run": bool(own)}


def _files_of_run(table: Table, run: str) -> list[str]:
    """Live files that a run committed, newest first."""
    # The log, not the rows, knows which run wrote a file: a row names only its checkpoint, which several runs may use.
    written = {
        action["add"]["path"]
        for _, actions in log_entries(table)
        if any(action.get("commitInfo", {}).get("run") == run for action in actions)
        for action in actions
        if "add" in action
    }
    return [path for path in reversed(table.live_files()) if path in written]


def _newest_rows(table: Table, files: Iterable[str]) -> list[dict[str, Any]]:
    """The last rows of files that are given newest first; only as many files as needed are read."""
    rows: list[dict[str, Any]] = []
    for path in files:
        # Rows of a file are in the order of generation, so its newest ones are last. The loop ends before `rows` is
        # complete, so the start of the slice is negative and counts from the end.
        keys = table.keys_of(path).to_pylist()[len(rows) - SHOWN_GENERATED :]
        rows += reversed(table.read_located({path: keys}, GENERATED_COLUMNS).to_pylist())
        if len(rows) >= SHOWN_GENERATED:
            break
    return rows


def _pngs(rows: Sequence[dict[str, Any]]) -> list[bytes]:
    return [row["image"]["bytes"] for row in rows]


def _version_row(name: str, table: Table) -> dict[str, Any]:
    """A table's version and size, and the origin of its newest commit by a job."""
    commits = [entry for entry in table_commits(table) if entry["stage"]]
    newest = commits[0] if commits else {"parents": {}, "run": "", "stage": "", "time": None, "code": ""}
    # The newest commit may be older than the table's version, as compaction and restores commit without a stage.
    return {"name": name, "rows": table.count(), "version": table.version, "num_commits": len(commits), **newest,
            "version_of_table": table.version}  # fmt: skip


def _demo_sheet(store: Store, run: str) -> bytes | None:
    path = ("runs", run, DEMO_SHEET)
    return store.read(*path) if store.exists(*path) else None


def _stages(store: Store, run: str) -> list[dict[str, Any]]:
    """Per stage: seconds and number of its executions, peak memory, and the summary of the last one."""
    found: dict[str, dict[str, Any]] = {}
    for name in store.list("runs", run, "stages"):
        facts = json.loads(store.read("runs", run, "stages", name))
        # The report cannot state its own time: it is still being made.
        if facts["stage"] == "report":
            continue
        stage = found.setdefault(facts["stage"], {"seconds": 0.0, "peak_mb": 0.0, "num_runs": 0})
        stage["seconds"] += facts["seconds"]
        stage["peak_mb"] = max(stage["peak_mb"], facts["peak_mb"])
        stage["num_runs"] += 1
        stage["summary"] = facts.get("summary", {})
    return [{"stage": name, **stage} for name, stage in found.items()]
