"""`kill -9` of the demo's driver at five random moments, then a complete run: no row is lost or duplicated."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
from typing import Any

import psutil

from emoji_ldm.dataset.table import Table
from emoji_ldm.schemas import TABLES
from emoji_ldm.store import Store
from tests.bench.demo import QUICK, demo, environment

SEED = 20
NUM_KILLS = 5
LONGEST_S = 90.0


def run(*, quick: bool) -> dict[str, Any]:
    """Duplicated and missing rows after the kills."""
    with tempfile.TemporaryDirectory() as folder:
        options = [f"store={folder}/store", *QUICK]
        moments = killed(folder, options, 2 if quick else NUM_KILLS)
        demo(folder, options)
        figures: dict[str, Any] = {"killed_after_s": moments, **count(folder)}
    holds = figures["doubled"] == 0 and figures["missing"] == 0
    return {"figures": figures, "floor": {"doubled": "0", "missing": "0"}, "holds": holds}


def killed(folder: str, options: list[str], times: int) -> list[float]:
    """Start the demo and kill its driver, several times; returns the seconds after each start."""
    rng, moments = random.Random(SEED), []
    for _ in range(times):
        moment = round(rng.uniform(5, LONGEST_S), 1)
        command = [sys.executable, "-m", "ray_jobs", "demo", *options]
        driver = subprocess.Popen(command, cwd=folder, env=environment(), start_new_session=True)
        try:
            driver.wait(moment)
        except subprocess.TimeoutExpired:
            left = psutil.Process(driver.pid).children(recursive=True)
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            moments.append(moment)
            _, alive = psutil.wait_procs(left, timeout=60)
            print(f"killed after {moment} s; {len(alive)} of {len(left)} child processes outlived it by 60 s")
    return moments


def count(folder: str) -> dict[str, int]:
    """Rows that are duplicated, and rows that are missing."""
    tables = {name: Table(Store(f"{folder}/store"), spec) for name, spec in TABLES.items()}
    doubled = sum(table.read([table.spec.key]).num_rows - len(table.keys()) for table in tables.values())
    urls = set(tables["listings"].read(["image_url"]).column(0).to_pylist())
    images = tables["images"].keys()
    kept = set(tables["outcomes"].read(["image_id"]).column(0).to_pylist()) - {None, ""}
    captioned = set(tables["captions"].read(["image_id"]).column(0).to_pylist())
    encoded = set(tables["latents"].read(["image_id"]).column(0).to_pylist())
    missing = (
        len(urls - tables["outcomes"].keys()) + len(kept ^ images) + len(images ^ captioned) + len(images - encoded)
    )
    return {"images": len(images), "urls": len(urls), "doubled": doubled, "missing": missing}
