"""`emoji-ldm train plan`: what a training needs before anything is started, and which options make it fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emoji_ldm.errors import MissingInputError
from emoji_ldm.progress import print_status, print_summary
from emoji_ldm.schemas import LATENTS, TEXT_EMBEDDINGS

if TYPE_CHECKING:
    from emoji_ldm.config import Config
    from emoji_ldm.dataset.table import Table
    from emoji_ldm.train.memory_plan import MemoryPlanner
    from emoji_ldm.train.training_args import TrainingArgs

GPU_SIZES_GIB = (16, 24, 40, 48, 80, 141)
# Of a GPU's memory: the rest is for CUDA itself and for what its allocator cannot use.
USABLE = 0.9
# A CPU's heap keeps freed memory for later, in pieces that do not always fit.
CPU_USABLE = 0.7
PROCESS_GIB = 1.2  # a worker with its libraries, before it has any data


def print_plan(config: Config) -> int:
    """Print the plan of `config.train`; nothing is started or loaded besides this process.

    Raises:
        MissingInputError: There are no latents or text states, whose sizes decide that of the network.
    """
    from emoji_ldm.dataset.table import Table
    from emoji_ldm.store import Store
    from emoji_ldm.train.training_args import build_training_args

    store = Store(config.store, config.branch)
    latents, texts = Table(store, LATENTS), Table(store, TEXT_EMBEDDINGS)
    if not (latents.exists and texts.exists):
        raise MissingInputError(f"{store.uri} has no latents, whose size decides what fits; run: emoji-ldm latents")
    shape, width = tuple(_shape(latents)), _shape(texts)[-1]
    args, num_ranks = build_training_args(config, "train"), config.train.num_workers
    planner = _planner(config, shape, width)
    plan = planner.plan(args, num_ranks)
    copy = 4 * latents.count() * shape[0] * shape[1] * shape[2]
    print_summary("train plan", {
        "parameters": f"{planner.trained:,} trained of {planner.trained + planner.frozen:,}",
        "memory of a rank": f"{_gib(plan.device_total)} on the {'GPU' if planner.on_gpu else 'CPU'}",
        **{f"  {name}": _gib(size) for name, size in plan.device.items()},
        "host memory of a rank": f"{PROCESS_GIB} GiB for the process",
        **{f"  {name} ": _gib(size) for name, size in plan.host.items()},
        "checkpoint": f"{_gib(plan.checkpoint)}, {_gib(plan.checkpoint * (args.keep_last + 1))} for all that are kept",
        "local copy of the latents": f"up to {_gib(copy)} in TMPDIR of each machine",
    })  # fmt: skip
    for line in _advice(planner, args, num_ranks):
        print_status(line)
    return 0


def _planner(config: Config, shape: tuple[int, ...], width: int) -> MemoryPlanner:
    import torch

    from emoji_ldm.model.denoiser import build_denoiser, trains_text_encoder
    from emoji_ldm.train.memory_plan import MemoryPlanner

    if trains_text_encoder(config.train):
        print_status("the plan counts the network alone: the text encoder, which is trained too, comes on top")
    # Tensors on this device have shapes and no values, so that a network of any size is built at once.
    with torch.device("meta"):
        module = build_denoiser(config.train, (shape[0], shape[1], shape[2]), width).to("meta")

    def forward(count: int) -> torch.Tensor:
        latents, times = torch.empty(count, *shape, device="meta"), torch.empty(count, device="meta")
        text = torch.empty(count, config.latents.max_tokens, width, device="meta")
        output: torch.Tensor = module(latents, times, text).float().square().mean()
        return output

    return MemoryPlanner(module, forward, on_gpu=config.train.gpus_per_worker > 0)


def _advice(planner: MemoryPlanner, args: TrainingArgs, num_ranks: int) -> list[str]:
    """What to do, for the memory of this machine; for GPUs, which may be elsewhere, of usual sizes."""
    import psutil

    if not planner.on_gpu:
        limit = int(CPU_USABLE * psutil.virtual_memory().total / num_ranks)
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
    changes = [f"train.{name}={getattr(found, name)}" for name in ("zero_stage", "micro_batch_size")
               if getattr(found, name) != getattr(args, name)]  # fmt: skip
    return f"{what}: fits{' with ' + ' '.join(changes) if changes else ''}"


def _shape(table: Table) -> list[int]:
    return [int(size) for size in table.head(1)["shape"][0].as_py()]


def _gib(size: float) -> str:
    return f"{size / 2**30:,.2f} GiB"
