"""Seconds from the start of `emoji-ldm train` to its first step: of a new run, and of one that goes on.

Both are the command as a user types it, with a Ray of its own and two DeepSpeed ranks, so the figure holds the imports,
the start of Ray and of its workers, the reading of the data, and for the second also the checkpoint of all ranks. A
process that only imports what the command imports is timed beside them. The runs alternate.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from emoji_ldm.config import Config
from tests.latents_store import fill_latents, training_config
from tests.tiny_pipelines import write_pipeline

STEPS = 2
FIRST_STEP = re.compile(r"^train: (\d+)/\d+ steps", re.MULTILINE)
SIZES = {"3.9 M": "[64,128]", "37 M": "[192,384]"}  # weights of the U-Net, and its widths
# Reading a checkpoint must not cost as much again as all that starts anyway.
FLOOR = 1.5


def run(*, quick: bool) -> dict[str, Any]:
    """Seconds to the first step of new and of resumed runs, and their ratio, for two sizes of U-Net."""
    rounds, figures, ratios = 1 if quick else 3, dict[str, Any](), dict[str, float]()
    figures["imports alone, s"] = round(statistics.median(_imports_s() for _ in range(rounds)), 1)
    for size, widths in list(SIZES.items())[: 1 if quick else None]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            config = training_config(write_pipeline(folder / "pipeline"), folder / "store",
                                     f"train.block_out_channels={widths}")  # fmt: skip
            fill_latents(config)
            times = [_train_twice(config, f"run-{number}", folder) for number in range(rounds)]
        new, resumed = (statistics.median(each) for each in zip(*times, strict=True))
        key = f"{size}: resumed / new"
        ratios[key] = round(statistics.median(after / before for before, after in times), 2)
        figures |= {f"{size}: new run, s": round(new, 1), f"{size}: resumed run, s": round(resumed, 1)}
    return {"figures": {**figures, **ratios}, "floor": dict.fromkeys(ratios, f"<= {FLOOR}"),
            "target": dict.fromkeys(ratios, 1.1), "holds": max(ratios.values()) <= FLOOR}  # fmt: skip


def _train_twice(config: Config, run: str, folder: Path) -> tuple[float, float]:
    seconds = []
    for steps in (STEPS, 2 * STEPS):
        train = config.train.model_copy(update={"steps": steps, "checkpoint_every": STEPS})
        path = folder / f"{run}-{steps}.yaml"
        path.write_text(config.model_copy(update={"run": run, "train": train}).to_yaml())
        seconds.append(_first_step_s(path, range(steps - STEPS + 1, steps + 1)))
    return seconds[0], seconds[1]


def _first_step_s(config: Path, steps: range) -> float:
    """Run the training; seconds until it says that it has made a step, which has to be one of `steps`.

    The log is read once a second, so the first line may already tell of the second step.
    """
    began, found = time.monotonic(), 0.0
    command = [sys.executable, "-u", "-m", "ray_jobs", "train", "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        printed = []
        for line in process.stdout:
            printed.append(line)
            if not found and (match := FIRST_STEP.match(line)):
                assert int(match[1]) in steps, f"step {match[1]} is none of {list(steps)}"
                found = time.monotonic() - began
    if process.returncode or not found:
        raise RuntimeError("".join(printed[-30:]))
    return found


def _imports_s() -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import deepspeed, diffusers, ray, ray.train, torch"], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    return time.monotonic() - began
