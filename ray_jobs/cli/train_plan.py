"""`emoji-ldm train plan`: what a training needs before anything is started, and which options make it fit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from emoji_ldm.progress import print_status, print_summary
from emoji_ldm.schemas import LATENTS, TEXT_EMBEDDINGS

if TYPE_CHECKING:
    from emoji_ldm.config import Config
    from emoji_ldm.dataset.table import Table
    from emoji_ldm.train.memory_plan import MemoryPlan, MemoryPlanner
    from emoji_ldm.train.training_args import TrainingArgs

GPU_SIZES_GIB = (16, 24, 40, 48, 80, 141)
# Of a GPU's memory: the rest is for CUDA itself and for what its allocator cannot use.
USABLE = 0.9
# A CPU's heap keeps freed memory for later, in pieces that do not always fit.
CPU_USABLE = 0.7
PROCESS_GIB = 1.2  # a worker with its libraries, before it has any data
# Memory of the Pods that train, a rank each: k8s/components/large/gpu.yaml, and k8s/base/pods.yaml for CPUs. Ray's own
# processes need a part of it.
GPU_POD_GIB, CPU_POD_GIB, RAY_GIB = 26, 4, 1.0
MEMORY_LIMIT_FILE = Path("/sys/fs/cgroup/memory.max")  # of the container that this process runs in


def print_plan(config: Config) -> int:
    """Print the plan of `config.train`; nothing is started or loaded besides this process.

    Sizes that no latents say yet are taken from the configuration, and named.

    Raises:
        MissingInputError: `train.init` is not on this machine, and its sizes are not known.
    """
    from emoji_ldm.dataset.table import Table
    from emoji_ldm.store import Store
    from emoji_ldm.train.memory_plan import MemoryPlanner
    from emoji_ldm.train.planned_network import plan_network
    from emoji_ldm.train.training_args import build_training_args

    store = Store(config.store, config.branch)
    latents, texts = Table(store, LATENTS), Table(store, TEXT_EMBEDDINGS)
    exist = latents.exists and texts.exists
    channels, height, width = _shape(latents) if exist else (0, 0, 0)
    network = plan_network(config, (channels, height, width) if exist else None, _shape(texts)[-1] if exist else None)
    if network.assumed:
        print_status(f"there are no latents of this size yet; planned for {network.assumed}")
    _tell_uncounted(config)
    args, num_ranks = build_training_args(config, "train"), config.train.num_workers
    planner = MemoryPlanner(network.module, network.forward, on_gpu=config.train.gpus_per_worker > 0)
    plan = planner.plan(args, num_ranks)
    print_summary("train plan", _rows(planner, plan, args))
    if exist:
        copy = 4 * latents.count() * channels * height * width
        print_status(f"local copy of the latents: up to {_gib(copy)} in TMPDIR of each machine")
    for line in _advice(planner, args, num_ranks):
        print_status(line)
    return 0


def _tell_uncounted(config: Config) -> None:
    from emoji_ldm.model.denoiser import trains_text_encoder

    if trains_text_encoder(config.train):
        print_status("the plan counts the network alone: the text encoder, which is trained too, comes on top")


def _rows(planner: MemoryPlanner, plan: MemoryPlan, args: TrainingArgs) -> dict[str, object]:
    pod = GPU_POD_GIB if planner.on_gpu else CPU_POD_GIB
    host = plan.host_total + (0 if planner.on_gpu else plan.device_total)
    need = host / 2**30 + PROCESS_GIB + RAY_GIB
    verdict = "fits" if need <= pod else "too large: give the Pods more memory, or the run more workers"
    return {
        "parameters": f"{planner.trained:,} trained of {planner.trained + planner.frozen:,}",
        "memory of a rank": f"{_gib(plan.device_total)} on the {'GPU' if planner.on_gpu else 'CPU'}",
        **{f"  {name}": _gib(size) for name, size in plan.device.items()},
        "host memory of a rank": f"{PROCESS_GIB} GiB for the process",
        **{f"  {name} ": _gib(size) for name, size in plan.host.items()},
        f"Pod of {pod} GiB": f"{need:,.1f} GiB with Ray; {verdict}",
        "checkpoint": f"{_gib(plan.checkpoint)}, {_gib(plan.checkpoint * (args.keep_last + 1))} for all that are kept",
    }


def _advice(planner: MemoryPlanner, args: TrainingArgs, num_ranks: int) -> list[str]:
    """What to do, for the memory of this machine; for GPUs, which may be elsewhere, of usual sizes."""
    if not planner.on_gpu:
        limit = int(CPU_USABLE * _memory_limit() / num_ranks)
        return [
            _advice_for(f"a worker's share of this machine ({_gib(limit)} usable)", planner, args, num_ranks, limit)
        ]
    return [_advice_for(f"a GPU of {size} GiB", planner, args, num_ranks, int(USABLE * size * 2**30))
            for size in GPU_SIZES_GIB]  # fmt: skip


def _advice_for(what: str, planner: MemoryPlanner, args: TrainingArgs, num_ranks: int, limit: int) -> str:
    found = planner.fit(args, num_ranks, limit)
    if found is None:
        words = "more workers" if args.gradient_checkpointing else "train.gradient_checkpointing=true or more workers"
        return f"{what}: does not fit; try {words}"
    changes = [f"train.{name}={getattr(found, name)}" for name in ("zero_stage", "micro_batch_size", "offload")
               if getattr(found, name) != getattr(args, name)]  # fmt: skip
    host = planner.plan(found, num_ranks).host_total if found.offload else 0
    memory = f", and {_gib(host + PROCESS_GIB * 2**30)} of host memory" if host else ""
    return f"{what}: fits{' with ' + ' '.join(changes) if changes else ''}{memory}"


def _memory_limit() -> int:
    """Bytes that this machine, or the container on it, may use."""
    import psutil

    found = MEMORY_LIMIT_FILE.read_text().strip() if MEMORY_LIMIT_FILE.is_file() else "max"
    total = int(psutil.virtual_memory().total)
    return min(total, int(found)) if found.isdigit() else total


def _shape(table: Table) -> list[int]:
    return [int(size) for size in table.head(1)["shape"][0].as_py()]


def _gib(size: float) -> str:
    return f"{size / 2**30:,.2f} GiB"
