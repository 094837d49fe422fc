"""T12: the offline job against full batches in a plain loop."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from pathlib import Path

import ray

from emoji_ldm.config import Config, build
from emoji_ldm.dataset.delta.delta_log import read_entry
from emoji_ldm.dataset.table import Table
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.schemas import GENERATED
from emoji_ldm.store import Store
from ray_jobs import generate
from ray_jobs.execution import ray_runtime
from tests.bench.serving import bench_model
from tests.bench.serving.figure import Figure, Load, ratios
from tests.bench.serving.static_batching import BATCH_SIZE
from tests.bench.serving.throughput import static_speed

GUIDANCE = 3.0
SHARDS = 6


def job(load: Load) -> list[Figure]:
    """T12: `generate` with one worker, timed by its commits, so without starting Ray and loading the model."""
    best, speeds, whole = list[float](), {False: list[float](), True: list[float]()}, list[float]()
    with tempfile.TemporaryDirectory() as folder:
        try:
            for number in load.repeats:
                for deterministic, found in speeds.items():
                    config = _config(Path(folder, f"{number}-{deterministic}"), load, deterministic)
                    ray_runtime.connect(config.ray)
                    with contextlib.redirect_stderr(io.StringIO()):
                        done = generate.run(config)
                    found.append(_rate(config))
                    whole += [] if deterministic else [float(str(done["images/s"]))]
                best.append(_static(load))  # while Ray is running too, as it does beside the job
        finally:
            ray.shutdown()
    return [
        Figure("T12 offline job / static batch", ratios(speeds[False], best), ">= 0.85"),
        Figure("T12 offline job, strict / static batch", ratios(speeds[True], best)),
        Figure("T12 static, pictures/s", best),
        Figure("T12 whole job with start and load, pictures/s", whole),
    ]


def _config(folder: Path, load: Load, deterministic: bool) -> Config:
    """Shards of full batches of equal requests."""
    size = BATCH_SIZE * load.of(4, 2)
    requests = {"checkpoint": str(bench_model.folder()), "prompts": ["a happy cat"], "num_images": SHARDS * size,
              "steps": load.of(20, 8), "guidance_scale": GUIDANCE, "batch_size": BATCH_SIZE, "rows_per_shard": size,
              "num_workers": 1, "deterministic": deterministic, "output": str(folder / "out")}  # fmt: skip
    fields = {"run": "bench", "store": str(folder / "store"), "generate": requests, "ray": {"num_cpus": 4}}
    return build(fields, where="bench")


def _static(load: Load) -> float:
    """Images per second of full batches, one after the other."""
    steps = load.of(20, 8)
    requests = [
        GenerationRequest("a happy cat", seed=seed, steps=steps, guidance_scale=GUIDANCE)
        for seed in range(4 * BATCH_SIZE)
    ]
    return static_speed(requests) / steps


def _rate(config: Config) -> float:
    """Images per second from the first commit to the last."""
    table, times_s, num_images = Table(Store(config.store), GENERATED), list[float](), list[int]()
    for version in range(1, table.version + 1):
        actions = read_entry(table, version)
        num_images.append(
            sum(json.loads(action["add"]["stats"])["numRecords"] for action in actions if "add" in action)
        )
        times_s.append(next(action["commitInfo"]["timestamp"] for action in actions if "commitInfo" in action) / 1000)
    return sum(num_images[1:]) / (times_s[-1] - times_s[0])
