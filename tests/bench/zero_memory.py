"""Bytes of training state per rank at ZeRO stages 0 to 3, counted from the live tensors, against theory."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from emoji_ldm.config import Config, TrainConfig
from emoji_ldm.model.ema import WeightAverages
from emoji_ldm.model.unet import build_unet
from emoji_ldm.train.engines.distributed import current_context
from emoji_ldm.train.engines.training_engine import TrainingEngine, build_engine
from emoji_ldm.train.training_args import build_training_args
from tests.gloo_ranks import Ranks

LATENT, TEXT_WIDTH = (4, 8, 8), 64
CEILING = 1.1


def run(*, quick: bool) -> dict[str, Any]:
    """Bytes per parameter and rank for each stage and number of ranks, and the worst ratio to theory."""
    figures: dict[str, Any] = {}
    worst = worst_average = 0.0
    for size in (2,) if quick else (2, 4):
        with tempfile.TemporaryDirectory() as folder, Ranks(size, Path(folder)) as group:
            for stage in range(4):
                counts = group.run(measure, stage, (32, 64) if quick else (96, 192))
                most = max(counts, key=lambda count: float(count["state"]))
                ratio, average = most["state"] / theory(stage, size), most["averages"] / (4 / (size if stage else 1))
                worst, worst_average = max(worst, ratio), max(worst_average, average)
                figures[f"{size} ranks, stage {stage}"] = _line(most, stage, size, ratio)
                figures["parameters"] = most["parameters"]
    figures |= {"state_to_theory": round(worst, 3), "averages_to_theory": round(worst_average, 3)}
    bounds = {"state_to_theory": f"<= {CEILING}", "averages_to_theory": f"<= {CEILING}"}
    return {"figures": figures, "floor": bounds, "target": {"state_to_theory": "<= 1.03"},
            "holds": max(worst, worst_average) <= CEILING}  # fmt: skip


def theory(stage: int, size: int) -> float:
    """Bytes per parameter: bf16 weights and gradients, fp32 masters and two moments (ZeRO, arXiv 1910.02054)."""
    return {0: 16.0, 1: 4 + 12 / size, 2: 2 + 14 / size, 3: 16 / size}[stage]


def measure(stage: int, widths: tuple[int, ...]) -> dict[str, Any]:
    """Bytes per parameter on this rank after a step and the next backward pass, when all state exists."""
    gc.collect()
    world = current_context(torch.device("cpu"))
    config = TrainConfig(block_out_channels=widths, num_heads=4)
    module = build_unet(config, LATENT, TEXT_WIDTH)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    defaults = build_training_args(Config(), "autoencoder")
    plan = replace(defaults, batch_size=world.world_size, lr=1e-4, zero_stage=stage, precision="bf16")
    engine: Any = build_engine(module, plan, world)
    averages = WeightAverages(engine.master_shards(), 0.99)
    for last in (False, True):
        predicted = engine.forward(torch.randn(1, *LATENT), torch.zeros(1), torch.randn(1, 4, TEXT_WIDTH)).sample
        engine.backward(predicted.float().square().mean(), last=True)
        if not last:
            engine.step(1e-4, float("inf"))
            averages.update(engine.master_shards(), 1)
    kinds = _tensors(engine, module, averages)
    seen: set[int] = set()
    count = {kind: _bytes(tensors, seen) / parameters for kind, tensors in kinds.items()}
    rest = _bytes((tensor for tensor in gc.get_objects() if type(tensor) is Tensor), seen) / parameters
    state = sum(count[kind] for kind in ("weights", "gradients", "masters", "moments"))
    rss_mb = psutil.Process().memory_info().rss / 2**20
    if stage:
        engine.engine.destroy()  # its hooks would keep all state alive beside the next engine
    return {**count, "state": state, "rest": rest, "rss_mb": rss_mb, "parameters": parameters}


def _tensors(engine: TrainingEngine, module: nn.Module, averages: WeightAverages) -> dict[str, list[Tensor]]:
    """The tensors of each kind, DeepSpeed's own where it holds them."""
    parameters = list(module.parameters())
    wrapper = getattr(getattr(engine, "engine", None), "optimizer", None)
    flat = [parameter.ds_tensor for parameter in parameters if hasattr(parameter, "ds_tensor")]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    gradients += [part for group in getattr(wrapper, "averaged_gradients", {}).values() for part in group or []]
    buffer = getattr(wrapper, "grad_partitions_flat_buffer", None)
    states = [value for key in engine.optimizer_state_keys() for value in engine.optimizer.state[key].values()]
    return {
        "weights": [parameter.detach() for parameter in parameters] + flat,
        "gradients": gradients + ([buffer] if buffer is not None else []),
        "masters": engine.master_shards(), "moments": states,
        "averages": [tensor for tensors in averages.tensors.values() for tensor in tensors],
    }  # fmt: skip


def _bytes(tensors: Iterable[Tensor], seen: set[int]) -> int:
    """Bytes of the storages below, each counted once."""
    total = 0
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage.nbytes() and storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total += storage.nbytes()
    return total


def _line(count: dict[str, Any], stage: int, size: int, ratio: float) -> str:
    parts = " + ".join(f"{kind} {count[kind]:.2f}" for kind in ("weights", "gradients", "masters", "moments"))
    return (
        f"{count['state']:.2f}P ({parts}), theory {theory(stage, size):.2f}P: {ratio:.3f}; averages "
        f"{count['averages']:.2f}P, rest {count['rest']:.2f}P, RSS {count['rss_mb']:.0f} MB"
    )
