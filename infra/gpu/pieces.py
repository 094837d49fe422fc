"""The pieces of the first hour, each a process of its own, run in order within a budget of time and resumed later.

A work folder keeps `state.json` and the training's checkpoint between calls; the output folder gets what is to be
brought back, in files of at most 16 MB.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from infra.gpu.bench_generation import CASES as GENERATION_CASES
from infra.gpu.bench_training import CASES as TRAINING_CASES
from infra.gpu.parts import part_of

RESULT_PREFIX = "RESULT "  # of the line by which a piece tells its figures
MIN_START_S = 30.0  # with less time left no piece is started
MARGIN_S = 40.0  # of the training: to save, validate and draw a sheet
MAX_TRIES = 2  # a piece that ran out of time twice is not tried again
NUM_SHEETS = 2  # brought back
TEST_FILES = ("test_training.py", "test_generation.py", "test_zero.py", "test_risks.py")
BROUGHT = {"weights": "starter-average.pt", "checkpoint": "last.pt"}  # {option: file whose parts are brought back}
PACKAGES = ("torch", "transformers", "diffusers", "accelerate", "deepspeed", "numpy")


@dataclass(frozen=True)
class Options:
    """What the caller chose; see the command's help."""

    work: Path
    output: Path
    device: str
    tiny: bool
    budget_s: float
    bring: str  # weights, checkpoint or nothing
    only: tuple[str, ...]


def piece_names(packed: Path) -> list[str]:
    """All pieces in their order; the starter's training only where its data are."""
    tests = [f"tests/{name.removeprefix('test_').removesuffix('.py')}" for name in TEST_FILES]
    benchmarks = [f"training/{name}" for name in TRAINING_CASES] + [f"generation/{name}" for name in GENERATION_CASES]
    return [*tests, *benchmarks, *(["starter"] if (packed / "records.json").exists() else [])]


def run_pieces(options: Options, source: Path, packed: Path) -> dict[str, Any]:
    """Run what is not done yet until the budget is spent; what is known so far, also written to results.json."""
    options.work.mkdir(parents=True, exist_ok=True)
    options.output.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + options.budget_s
    known = options.work / "state.json"
    results: dict[str, Any] = json.loads(known.read_text()) if known.exists() else {"pieces": {}}
    results["machine"] = describe_machine(options.device)
    names = [name for name in piece_names(packed) if not options.only or name in options.only]
    for name in names:
        piece = results["pieces"].setdefault(name, {"status": "waiting", "tries": 0})
        left = deadline - time.monotonic()
        again = piece["status"] == "failed" and name in options.only  # who names it wants to see it once more
        if (piece["status"] in ("passed", "failed") and not again) or left < MIN_START_S:
            continue
        print(f"{name}: {left:.0f} s left", flush=True)
        piece |= _run_piece(name, options, source, packed, left)
        piece["tries"] += piece["status"] == "out of time"
        if piece["tries"] >= MAX_TRIES:
            piece["status"] = "failed"
        print(f"{name}: {piece['status']} after {piece['seconds']} s", flush=True)
        known.write_text(json.dumps(results, indent=1))
        _bring_back(options, results)
    results["left"] = [name for name in names if results["pieces"][name]["status"] not in ("passed", "failed")]
    _bring_back(options, results)
    return results


def _run_piece(name: str, options: Options, source: Path, packed: Path, left: float) -> dict[str, Any]:
    """Run one piece in a process; its status, seconds, figures, and the end of what it printed."""
    variables = {
        **os.environ, "GPU_TESTS_DEVICE": options.device, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1",
        "STARTER_DATA": str(options.work / "data"), "TORCHINDUCTOR_CACHE_DIR": str(options.work / "inductor"),
        "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    began = time.monotonic()
    log = options.work / f"{name.replace('/', '-')}.log"
    with log.open("a") as stream:
        process = subprocess.Popen(
            _command(name, options, packed, left), cwd=source, env=variables, stdout=stream, stderr=subprocess.STDOUT
        )
        try:
            code: int | None = process.wait(timeout=left)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = None
    text = log.read_text(errors="replace")
    told = [line.removeprefix(RESULT_PREFIX) for line in text.splitlines() if line.startswith(RESULT_PREFIX)]
    figures: dict[str, Any] = json.loads(told[-1]) if told and code == 0 else {}
    seconds = round(time.monotonic() - began, 1)
    return {"status": _status(code, figures), "seconds": seconds, "figures": figures, "end": text[-3000:]}


def _status(code: int | None, figures: dict[str, Any]) -> str:
    """Of a process that ended with a code, or None if it was killed because the time was up."""
    if code is None:
        return "out of time"
    if code:
        return "failed"
    return "unfinished" if figures.get("done") is False else "passed"


def _command(name: str, options: Options, packed: Path, left: float) -> list[str]:
    kind, _, case = name.partition("/")
    if kind == "tests":
        # Fewer reports than the default: only what was skipped or failed, and the slowest.
        chosen = [f"tests/gpu/test_{case}.py", "-m", "gpu", "-rsf", "--durations=5", "-p", "no:cacheprovider"]
        return [sys.executable, "-m", "pytest", *chosen]
    common = ["--device", options.device, *(["--tiny"] if options.tiny else [])]
    if kind == "starter":
        places = ["--work", str(options.work), "--packed", str(packed), "--seconds", str(max(0.0, left - MARGIN_S))]
        return [sys.executable, "-m", "infra.gpu", "train-starter", *places, *common]
    return [sys.executable, "-m", "infra.gpu", "measure", kind, case, *common]


def _bring_back(options: Options, results: dict[str, Any]) -> None:
    """Write results.json, the newest sheets and the parts of weights or checkpoint into the output folder."""
    (options.output / "results.json").write_text(json.dumps(results, indent=1))
    trained = options.work / "starter"
    wanted = sorted(trained.glob("sheet-*.png"))[-NUM_SHEETS:]
    if options.bring in BROUGHT and (trained / "parts").exists():
        wanted += [path for path in (trained / "parts").iterdir() if part_of(path) == BROUGHT[options.bring]]
    names = {path.name for path in wanted}
    for old in options.output.iterdir():
        if old.name not in names and (old.name.startswith("sheet-") or part_of(old) in BROUGHT.values()):
            old.unlink()
    for path in wanted:
        shutil.copy(path, options.output)


def describe_machine(device: str) -> dict[str, Any]:
    """The device, and the versions of what decides the figures."""
    import torch

    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    names = {"device": f"CPU {platform.machine()}", "cores": os.cpu_count(), "python": platform.python_version()}
    if device == "cuda":
        names |= {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda,
                  "memory_gb": round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1)}  # fmt: skip
    return {**names, **versions}
