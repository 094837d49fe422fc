"""`emoji-ldm demo` on an empty store: time, memory and counts; then again, when no work may be repeated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from emoji_ldm.dataset.table import Table
from emoji_ldm.schemas import TABLES
from emoji_ldm.store import Store

QUICK = ["autoencoder.steps=40", "autoencoder.checkpoint_every=20", "train.steps=20", "train.checkpoint_every=10",
         "train.sample_every=null", "generate.steps=4"]  # fmt: skip


def run(*, quick: bool) -> dict[str, Any]:
    """Figures of a first and a second demo; the floors are what the project promises on two cores."""
    with tempfile.TemporaryDirectory() as folder:
        options = [f"store={folder}/store", *(QUICK if quick else [])]
        first = demo(folder, options)
        before = versions(folder)
        second = demo(folder, options)
        figures = {
            "first_s": round(first, 1),
            "second_s": round(second, 1),
            "peak_mb": round(peak_mb(folder)),
            "images": len(Table(Store(f"{folder}/store"), TABLES["images"]).keys()),
            "versions_made_by_second": sum(versions(folder).values()) - sum(before.values()),
        }
    most = {"first_s": 600, "second_s": 60, "peak_mb": 10_000, "versions_made_by_second": 0}
    holds = figures["images"] >= 400 and all(figures[name] <= bound for name, bound in most.items())
    floor = {"images": ">= 400", **{name: f"<= {bound}" for name, bound in most.items()}}
    return {"figures": figures, "floor": floor, "holds": holds}


def demo(folder: str, options: list[str], *, check: bool = True) -> float:
    """Seconds that one demo takes, Ray and browser starts included."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "ray_jobs", "demo", *options], cwd=folder, check=check, env=environment())
    return time.monotonic() - began


def environment() -> dict[str, str]:
    """The Makefile's environment, with the project importable from any folder."""
    root = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": root, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def versions(folder: str) -> dict[str, int]:
    """{table: version} of the demo's store."""
    return {name: Table(Store(f"{folder}/store"), spec).version for name, spec in TABLES.items()}


def peak_mb(folder: str) -> float:
    """The largest peak memory of a stage's processes."""
    files = Path(folder, "store", "runs", "demo", "stages").glob("*.json")
    return max(json.loads(path.read_text())["peak_mb"] for path in files)
