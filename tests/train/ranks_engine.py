"""Functions that ranks of the engine tests run, at module level so that `Ranks` can pickle them."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from emoji_ldm.config import Config
from emoji_ldm.model.ema import WeightAverages
from emoji_ldm.train.engines.distributed import DistributedContext, current_context
from emoji_ldm.train.engines.sharded_state import ShardSlice
from emoji_ldm.train.engines.training_engine import TrainingEngine, build_engine
from emoji_ldm.train.optimizers.optimizer_state import OptimizerState
from emoji_ldm.train.training_args import TrainingArgs, build_training_args

Options = Mapping[str, Any]
NO_OPTIONS: Options = MappingProxyType({})
BATCH = 12  # samples per step; 1, 2, 3 and 4 ranks divide it


def has_loaded(name: str) -> bool:
    """Whether a module has been imported."""
    return name in sys.modules


def training_args(**options: Any) -> TrainingArgs:
    numbers = {"steps": 10, "batch_size": BATCH, "lr": 1e-2, "checkpoint_every": 10, "grad_clip": 1e9}
    defaults = build_training_args(Config(), "autoencoder")
    return dataclasses.replace(defaults, section="train", kind="unet", **{**numbers, **options})


def network() -> nn.Module:
    """Convolutions and norms of odd sizes, so that parameters straddle the bounds of shards."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 7, 3, padding=1), nn.GroupNorm(1, 7), nn.SiLU(), nn.Conv2d(7, 5, 3, padding=1), nn.SiLU(),
        nn.Flatten(), nn.Linear(80, 1),
    )  # fmt: skip


def samples(step: int) -> Tensor:
    """`(BATCH, 3, 4, 4)`, the same on every rank."""
    return torch.randn(BATCH, 3, 4, 4, generator=torch.Generator().manual_seed(step))


def world() -> DistributedContext:
    return current_context(torch.device("cpu"))


def train(
    engine: TrainingEngine, here: DistributedContext, steps: int = 3, parts: int = 1, limit: float = float("inf")
) -> list[float]:
    """Steps on this rank's share of the samples, each in `parts` micro-batches; the gradient norms."""
    norms = []
    for step in range(steps):
        micro = samples(step).chunk(here.world_size)[here.rank].chunk(parts)
        for number, part in enumerate(micro, 1):
            wanted = part.flatten(1).mean(1, keepdim=True)
            engine.backward((engine.forward(part).float() - wanted).square().mean(), last=number == parts)
        norms.append(float(engine.step(1e-2, limit)))
    return norms


def whole(
    engine: TrainingEngine, tensors: list[Tensor], here: DistributedContext, slices: list[ShardSlice] | None = None
) -> dict[str, Tensor]:
    """Named tensors put together from every rank's pieces; those of the weights unless others are given."""
    mine = [(piece, tensors[piece.shard].flatten()[piece.offset : piece.offset + piece.length].clone())
            for piece in slices or engine.slices()]  # fmt: skip
    ranks: list[Any] = [mine] * here.world_size
    if here.world_size > 1:
        torch.distributed.all_gather_object(ranks, mine)
    found: dict[str, Tensor] = {}
    for piece, values in (entry for rank in ranks for entry in rank):
        flat = found.setdefault(piece.name, torch.full(piece.shape, float("nan"))).view(-1)
        flat[piece.start : piece.start + piece.length] = values
    return found


def built(here: DistributedContext, stage: int, module: nn.Module | None = None, **options: Any) -> TrainingEngine:
    return build_engine(module or network(), training_args(zero_stage=stage, **options), here)


def steps_of(engine: TrainingEngine) -> set[float]:
    return {
        float(engine.optimizer.state[key]["step"])
        for key in engine.optimizer_state_keys()
        if key in engine.optimizer.state
    }


def snapshot(engine: TrainingEngine, here: DistributedContext) -> dict[str, Tensor]:
    """Weights and moments, whole, by name."""
    state = OptimizerState(engine.optimizer, engine.optimizer_state_keys())
    tensors = {"weight": engine.master_shards(), **state.tensors}
    slices = {"weight": engine.slices(), **state.slices(engine.slices())}
    return {f"{kind}/{name}": value for kind, of_kind in tensors.items()
            for name, value in whole(engine, of_kind, here, slices[kind]).items()}  # fmt: skip


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def pieces_against_deepspeed(stage: int) -> tuple[bool, bool]:
    """Whether assembled shards equal DeepSpeed's own gathering, and whether working weights follow the shards."""
    here, module = world(), network()
    engine = built(here, stage, module)
    import deepspeed  # behind the engine, as in a training
    from deepspeed.utils import safe_get_full_fp32_param

    train(engine, here)
    ours, named = whole(engine, engine.master_shards(), here), dict(module.named_parameters())
    theirs = {name: parameter.detach().clone() if stage == 0 else safe_get_full_fp32_param(parameter)
              for name, parameter in named.items()}  # fmt: skip
    for shard in engine.master_shards():
        shard.mul_(2)
    engine.sync_working_weights()
    with deepspeed.zero.GatheredParameters(list(named.values()), enabled=stage == 3):
        follow = all(torch.equal(value, (2 * ours[name]).to(value.dtype)) for name, value in named.items())
    return equal(ours, theirs), follow


def same_training(
    stage: int, parts: int, compiled: bool = False, optimizer: str = "adamw", options: Options = NO_OPTIONS
) -> tuple[list[float], dict[str, Tensor]]:
    """Gradient norms and whole weights after some steps."""
    here = world()
    engine = built(
        here, stage, micro_batch_size=BATCH // here.world_size // parts, grad_clip=0.5, compile=compiled,
        optimizer=optimizer, **options,
    )  # fmt: skip
    return train(engine, here, parts=parts), whole(engine, engine.master_shards(), here)


def guarded(stage: int, precision: str, options: Options = NO_OPTIONS) -> dict[str, Any]:
    """What a step with a NaN on the last rank only, and one above the limit, leave behind."""
    here, module = world(), network()
    engine = built(here, stage, module, precision=precision, **options)
    train(engine, here, steps=2)
    before = snapshot(engine, here)
    part = samples(2).chunk(here.world_size)[here.rank]
    bad = float("nan") if here.rank == here.world_size - 1 else 1.0
    engine.backward(engine.forward(part).float().square().mean() * bad, last=True)
    norms = [float(engine.step(1e-2, float("inf"))), *train(engine, here, steps=1, limit=1e-9)]
    kept, steps = equal(before, snapshot(engine, here)), steps_of(engine)
    healthy = train(engine, here, steps=1)
    moved = snapshot(engine, here)
    return {
        "norms": norms, "kept": kept, "steps": steps, "healthy": healthy,
        "finite": all(bool(tensor.isfinite().all()) for tensor in moved.values()), "moved": not equal(before, moved),
    }  # fmt: skip


class Asked(TorchDispatchMode):
    """Counts questions of the host to tensors, each of which waits for the device on a GPU."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def questions(stage: int, precision: str) -> int:
    """How often a step asks."""
    here = world()
    engine = built(here, stage, precision=precision)
    train(engine, here, steps=1)
    engine.backward(engine.forward(samples(1).chunk(here.world_size)[here.rank]).float().square().mean(), last=True)
    with Asked() as asked:
        engine.step(1e-2, 1e9)
    return asked.count


def averaged(stage: int, widths: tuple[float, ...], options: Options = NO_OPTIONS) -> list[float]:
    """Largest distance of each average to its formula over the whole weights of all steps."""
    here = world()
    engine = built(here, stage, **options)
    averages = WeightAverages(engine.master_shards(), 0.5, widths)
    expected = [whole(engine, engine.master_shards(), here) for _ in averages.decays]
    for step in range(1, 6):
        train(engine, here, steps=1)
        averages.update(engine.master_shards(), step)
        now = whole(engine, engine.master_shards(), here)
        for mean, decay in zip(expected, averages.decays, strict=True):
            for name, weight in now.items():
                mean[name] = decay(step) * mean[name] + (1 - decay(step)) * weight
    found = [whole(engine, tensors, here) for tensors in averages.tensors.values()]
    return [max(float((ours[name] - mean[name]).abs().max()) for name in mean)
            for ours, mean in zip(found, expected, strict=True)]  # fmt: skip


def partly_frozen(stage: int, precision: str) -> tuple[bool, bool, set[str]]:
    """Whether frozen weights kept their bits and the others moved, and the names that have shards; checkpointed."""
    from torch.utils.checkpoint import checkpoint

    here, module = world(), network()
    for layer in (module[0], module[1]):
        layer.requires_grad_(False)
    block = nn.Sequential(nn.Conv2d(3, 3, 1), module)
    block.forward = lambda x: checkpoint(module, block[0](x), use_reentrant=False)  # type: ignore[method-assign]
    before = {name: parameter.detach().clone() for name, parameter in block.named_parameters()}
    frozen = {name for name, parameter in block.named_parameters() if not parameter.requires_grad}
    engine = built(here, stage, block, precision=precision)
    import deepspeed

    train(engine, here)
    named = dict(block.named_parameters())
    with deepspeed.zero.GatheredParameters(list(named.values()), enabled=stage == 3):
        kept = all(torch.equal(named[name], before[name].to(named[name].dtype)) for name in frozen)
        moved = all(not torch.equal(named[name], before[name].to(named[name].dtype)) for name in named.keys() - frozen)
    return kept, moved, frozen & whole(engine, engine.master_shards(), here).keys()


def masters(stage: int, options: Options = NO_OPTIONS) -> bool:
    """Whether a bf16 engine starts from the module's fp32 weights, bit by bit."""
    here, module = world(), network()
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    engine = built(here, stage, module, precision="bf16", **options)
    return equal(before, whole(engine, engine.master_shards(), here))


def working_weights_follow(stage: int, options: Options) -> bool:
    """Whether the network computes with what was written into the shards, also after a pass without a backward one."""
    here, module, plain = world(), network(), network()
    engine = built(here, stage, module, **options)
    with torch.no_grad():
        engine.forward(samples(0))
        for shard in engine.master_shards():
            shard.mul_(2)
        engine.sync_working_weights()
        plain.load_state_dict(whole(engine, engine.master_shards(), here))
        return torch.equal(engine.forward(samples(0)), plain(samples(0)))


def frozen_kept(stage: int, precision: str, options: Options) -> tuple[bool, bool, bool]:
    """Whether frozen weights kept their bits and have no shards, and the others moved; checkpointed."""
    from torch.utils.checkpoint import checkpoint

    here, module = world(), network()
    for layer in (module[0], module[1]):
        layer.requires_grad_(False)
    block = nn.Sequential(nn.Conv2d(3, 3, 1), module)
    block.forward = lambda x: checkpoint(module, block[0](x), use_reentrant=False)  # type: ignore[method-assign]
    before = {name: parameter.detach().clone() for name, parameter in block.named_parameters()}
    engine = built(here, stage, block, precision=precision, **options)
    train(engine, here)
    now = {name: parameter.full_tensor() for name, parameter in block.named_parameters()}
    trained = whole(engine, engine.master_shards(), here).keys()
    kept = all(torch.equal(now[name], before[name]) for name in now.keys() - trained)
    return kept, all(not torch.equal(now[name], before[name]) for name in trained), len(trained) == len(now) - 4


def fsdp_pieces(stage: int) -> bool:
    """Whether assembled shares equal what FSDP2 itself gathers, after some steps."""
    here, module = world(), network()
    engine = built(here, stage, module, sharding="fsdp2")
    train(engine, here)
    theirs = {name: parameter.full_tensor() for name, parameter in module.named_parameters()}
    return equal(whole(engine, engine.master_shards(), here), theirs)


def memory_kept(stage: int) -> tuple[int, int]:
    """Elements of weights that this rank holds between steps, and of the whole network."""
    here, module = world(), network()
    engine = built(here, stage, module, sharding="fsdp2")
    train(engine, here)
    own = sum(parameter.to_local().numel() for parameter in module.parameters())
    return own, sum(parameter.numel() for parameter in module.parameters())
