"""Training on a set that stays on disk against the same set in memory: throughput, and memory by the number of images.

Each size is a store of its own with latents of 4 x 16 x 16 and states of 8 tokens; the largest has latents of 4 x 8 x 8
and states of 4 short tokens, which a disk holds twice. A process of its own measures the first batch of a machine that
has no copy yet, another one when the copy is complete. A third trains a small U-Net from it; a fourth does so with all
arrays loaded into memory. Steps are those of `fit`, with the next batch prepared beside them, in alternating windows;
the ratio is that of CPU seconds, as others share the cores. Both must get the same batches bit by bit.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil

from emoji_ldm.latents.cache import LatentSet
from emoji_ldm.latents.latent_loading import DataVersion, load_latent_set
from emoji_ldm.store import Store
from tests.synthetic_latents import KEYS, fill_store

SIZES, QUICK = (1_000, 10_000, 100_000, 1_000_000), (500, 5_000)
MAX_WHOLE = 100_000  # images of a set that is compared with one in memory; larger ones have small tensors
SMALL: dict[str, Any] = {"shape": (4, 8, 8), "width": 64, "num_tokens": 4}
BATCH, NUM_WINDOWS, WINDOW_STEPS = 32, 5, 5
FLOOR = 0.95
MAX_GROWTH_MB = 40  # of a rank, from the smallest to the largest set: keys and orders of its images


def run(*, quick: bool) -> dict[str, Any]:
    """Ratio of throughputs, seconds to copy a set, and memory of a rank, for each size."""
    sizes, figures, ratios, growth = QUICK if quick else SIZES, dict[str, Any](), list[float](), list[float]()
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            is_small = size > MAX_WHOLE
            fill_store(Store(f"{folder}/store"), size, **(SMALL if is_small else {}))
            modes = ("first", "copy", "disk") if is_small else ("first", "copy", "disk", "memory", "ratio")
            result = {mode: _child(Path(folder), mode) for mode in modes}
        growth.append(result["disk"]["rss_mb"])
        figures |= {
            f"{size}: first batch without a copy, s": result["first"]["seconds"],
            f"{size}: copy to disk, s": result["copy"]["seconds"],
            f"{size}: memory of the copying process, MB": result["copy"]["peak_mb"],
            f"{size}: on disk, MB of a rank": result["disk"]["rss_mb"],
            f"{size}: on disk, batches/s alone": result["disk"]["batches_per_s"],
        }
        if not is_small:
            ratios.append(result["ratio"]["ratio"])
            figures |= {
                f"{size}: in memory, MB of a rank": result["memory"]["rss_mb"],
                f"{size}: in memory, batches/s alone": result["memory"]["batches_per_s"],
                f"{size}: on disk / in memory": result["ratio"]["ratio"],
            }
    figures |= {"on disk / in memory": min(ratios), "growth of a rank, MB": round(growth[-1] - growth[0], 1)}
    return {"figures": figures, "floor": {"on disk / in memory": FLOOR, "growth of a rank, MB": f"<= {MAX_GROWTH_MB}"},
            "target": {"on disk / in memory": 1.0}, "holds": min(ratios) >= FLOOR
            and figures["growth of a rank, MB"] <= MAX_GROWTH_MB}  # fmt: skip


def _child(folder: Path, mode: str) -> dict[str, Any]:
    # The copy lies below TMPDIR. That of the first batch goes on in the background, and may be complete when it ends.
    cache = folder / ("first" if mode == "first" else "cache")
    cache.mkdir(exist_ok=True)
    done = subprocess.run([sys.executable, "-m", "tests.bench.stream", str(folder), mode], check=True, text=True,
                          stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(cache)})  # fmt: skip
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _measure(folder: Path, mode: str) -> dict[str, Any]:
    import emoji_ldm.train.tasks.diffusion_task  # noqa: F401  not to be counted below

    began, process = time.monotonic(), psutil.Process()
    before = process.memory_info().rss
    found = load_latent_set([DataVersion(Store(f"{folder}/store"))], KEYS)
    if mode == "first":
        _task(found, folder).prepare_batch(0, range(BATCH))
        return {"seconds": round(time.monotonic() - began, 2)}
    if found.fill:
        found.fill.wait()
        seconds = time.monotonic() - began
        found = load_latent_set([DataVersion(Store(f"{folder}/store"))], KEYS)
    if mode == "copy":
        return {"seconds": round(seconds, 2), "peak_mb": round((process.memory_info().rss - before) / 2**20, 1)}
    if mode == "ratio":
        return {"ratio": _ratio(found, folder)}
    found = _in_memory(found) if mode == "memory" else found
    task = _task(found, folder)
    began, count = time.monotonic(), 40
    for step in range(count):
        task.prepare_batch(step, range(BATCH))
    per_s = count / (time.monotonic() - began)
    return {"batches_per_s": round(per_s, 1), "rss_mb": round(process.memory_info().rss / 2**20, 1)}


def _in_memory(found: LatentSet) -> LatentSet:
    mean, logvar = (np.asarray(part[range(len(part))]) for part in (found.mean, found.logvar))
    return replace(found, image_ids=list(found.image_ids), mean=mean, logvar=logvar, captions=list(found.captions),
                   caption_indices=list(found.caption_indices), states=list(found.states))  # fmt: skip


def _task(found: LatentSet, folder: Path) -> Any:
    from emoji_ldm.config import load
    from emoji_ldm.train.tasks.diffusion_task import DiffusionTask
    from emoji_ldm.train.tasks.pipeline_export import FrozenModels

    config = load(None, [
        "run=bench", f"store={folder}/store", "latents.max_tokens=16", "train.block_out_channels=[32,64]",
        "train.num_heads=4", f"train.batch_size={BATCH}", "train.zero_stage=0", "train.validation_fraction=0",
        "train.steps=100000", "train.checkpoint_every=100000", "train.sample_every=null",
    ])  # fmt: skip
    frozen = FrozenModels(SimpleNamespace(scaling_factor=1.0, key="codec"), SimpleNamespace(key="encoder"))
    return DiffusionTask(config, found, frozen)


def _ratio(found: LatentSet, folder: Path) -> float:
    """Median CPU seconds of a window in memory over those on disk; the batches of both are compared first."""
    import torch

    from emoji_ldm.train.engines.distributed import DistributedContext
    from emoji_ldm.train.loop import TrainLoop
    from emoji_ldm.train.training_args import RunContext, build_training_args

    torch.set_num_threads(1)
    tasks = {"disk": _task(found, folder), "memory": _task(_in_memory(found), folder)}
    one, other = (task.prepare_batch(3, range(BATCH)) for task in tasks.values())
    assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("latents", "noise", "text"))
    loops = {}
    for name, task in tasks.items():
        args = build_training_args(task.config, "train")
        place = RunContext(task.config, Store(str(folder / name)), folder / f"scratch-{name}")
        loops[name] = TrainLoop(task, args, place, DistributedContext(0, 1, torch.device("cpu")), [range(BATCH)])
    times: dict[str, list[float]] = {name: [] for name in loops}
    with ThreadPoolExecutor(1) as pool:
        for window in range(-1, NUM_WINDOWS):
            for name, loop in loops.items():
                first, began = (window + 1) * WINDOW_STEPS, time.process_time()
                pending = pool.submit(loop.prepare_batches, first)
                for step in range(first, first + WINDOW_STEPS):
                    batch = pending.result()
                    pending = pool.submit(loop.prepare_batches, step + 1)
                    loop.step(step, batch, 0.0)
                pending.result()
                if window >= 0:
                    times[name].append(time.process_time() - began)
    return round(statistics.median(times["memory"]) / statistics.median(times["disk"]), 3)


if __name__ == "__main__":
    print(json.dumps(_measure(Path(sys.argv[1]), sys.argv[2])))
