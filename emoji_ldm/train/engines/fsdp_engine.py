"""The training engine of torch's FSDP2: every rank holds an equal share of the rows of each weight (arXiv 2304.11277).

Masters, gradients, moments and averages exist as shares only. The weights of a *unit*, a layer or a few, are gathered
before its forward pass and again before its backward pass, unless stage 2 keeps them for that. The gathered weights
have the working precision, the shares are fp32: so the shares are the masters, and no second copy is kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor

from emoji_ldm.train.engines.distributed import DistributedContext, num_micro_batches
from emoji_ldm.train.engines.loss_scale import LossScale
from emoji_ldm.train.engines.optimizer import build_optimizer, gradient_norm, guard_step, set_lr, trainable_parameters
from emoji_ldm.train.engines.sharded_state import ShardSlice
from emoji_ldm.train.training_args import TrainingArgs

# A layer of a list is gathered as one unit up to this share of all weights: so a rank never holds much more than an
# eighth of them (the unit at work and the next one), and sends few messages.
LARGEST_UNIT = 1 / 16


class FsdpEngine:
    """The `TrainingEngine` of FSDP2; stage 2 gathers weights once per step, stage 3 once per pass."""

    def __init__(self, module: nn.Module, args: TrainingArgs, ranks: DistributedContext) -> None:
        self.module, self.clip, self.ranks, self.offloads = module, args.grad_clip, ranks, args.offload is not None
        self.num_parts = num_micro_batches(args, ranks.world_size)
        self.loss_scale = LossScale(args.precision, ranks.device)
        _broadcast_weights(module)
        _shard(module, args, ranks)
        self.names, self.parameters = trainable_parameters(module)
        # The optimiser gets plain tensors in the memory of the shares: its fused kernel wants these, and its state is
        # then that of any other engine.
        self.shards = [nn.Parameter(_local(parameter).detach()) for parameter in self.parameters]
        self.optimizer = build_optimizer(self.names, self.shards, args, sharded=True)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward; weights are gathered unit by unit."""
        return self.module(*args, **kwargs)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Backward of one micro-batch, whose gradients are reduced and added up in fp32 shares."""
        # The mean over ranks is FSDP2's, that over micro-batches is taken here.
        (self.loss_scale.scaled(loss) / self.num_parts).backward()  # type: ignore[no-untyped-call]

    def step(self, lr: float, max_accepted_norm: float) -> Tensor:
        """Clip, then update the local shares."""
        gradients = []
        for parameter, shard in zip(self.parameters, self.shards, strict=True):
            shard.grad = None if parameter.grad is None else _local(parameter.grad)
            gradients += [] if shard.grad is None else [shard.grad]
        # The squares of the shares' norms add up to that of the whole. Offloaded gradients lie in host memory, which
        # NCCL cannot reduce.
        squares = gradient_norm(gradients).square().to(self.ranks.device)
        dist.all_reduce(squares)
        norm = self.loss_scale.unscaled(squares.sqrt())
        guard_step(
            self.optimizer, norm, self.clip, max_accepted_norm, self.loss_scale.value, offloaded=self.offloads
        )  # fmt: skip
        self.loss_scale.update(norm)
        set_lr(self.optimizer, lr)
        self.optimizer.step()
        for tensor in itertools.chain(self.parameters, self.shards):
            tensor.grad = None
        return norm

    def master_shards(self) -> list[Tensor]:
        """A share of each parameter's rows, possibly none."""
        return [shard.detach() for shard in self.shards]

    def optimizer_state_keys(self) -> list[Tensor]:
        """The shares, one per parameter."""
        return list(self.shards)

    def slices(self) -> list[ShardSlice]:
        """Which rows of each parameter are here: as `torch.chunk` deals them out, so the last ranks may have fewer."""
        found = []
        for number, (name, parameter, shard) in enumerate(
            zip(self.names, self.parameters, self.shards, strict=True)
        ):  # fmt: skip
            rows, size = -(-parameter.shape[0] // self.ranks.world_size), parameter.numel() // parameter.shape[0]
            start = rows * size * self.ranks.rank
            if shard.numel():
                found.append(ShardSlice(name, tuple(parameter.shape), start, shard.numel(), number, 0))
        return found

    def sync_working_weights(self) -> None:
        """Drop gathered weights, so that the next forward pass gathers the shares as they are now."""
        # A pass without a backward one, as in validation, leaves weights gathered, which would go stale.
        for unit in self.module.modules():
            if isinstance(unit, FSDPModule):
                unit.reshard()


def sharding_units(module: nn.Module) -> list[nn.Module]:
    """The parts of a network that are gathered as a whole, inner ones first: layers of lists, of limited size."""
    return list(_units(module, LARGEST_UNIT * _num_weights(module)))


def _units(module: nn.Module, largest: float) -> Iterator[nn.Module]:
    repeats = isinstance(module, (nn.ModuleList, nn.Sequential))
    for child in module.children():
        if not repeats or _num_weights(child) > largest:
            yield from _units(child, largest)
        # A list has no forward pass of its own, in which its weights could be gathered.
        if repeats and _num_weights(child) and not isinstance(child, nn.ModuleList):
            yield child


def _num_weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _shard(module: nn.Module, args: TrainingArgs, ranks: DistributedContext) -> None:
    on_gpu = ranks.device.type == "cuda"
    # fp16 keeps fp32 weights under autocast, as it does under ZeRO. Inputs are left alone: times do not survive bf16.
    working = torch.bfloat16 if args.precision == "bf16" else None
    options: dict[str, Any] = {
        "mesh": init_device_mesh(ranks.device.type, (ranks.world_size,)),
        "mp_policy": MixedPrecisionPolicy(param_dtype=working, reduce_dtype=torch.float32, cast_forward_inputs=False),
        "offload_policy": CPUOffloadPolicy(pin_memory=on_gpu) if args.offload == "all" else OffloadPolicy(),
    }
    for unit in sharding_units(module):
        fully_shard(unit, reshard_after_forward=args.zero_stage == 3, **options)
    # The rest, small layers at both ends, stays gathered in between.
    fully_shard(module, reshard_after_forward=False, **options)
    if not on_gpu:
        for unit in module.modules():
            if isinstance(unit, FSDPModule):
                unit.set_force_sum_reduction_for_comms(True)  # gloo has no operation for the mean


def _broadcast_weights(module: nn.Module) -> None:
    # Each rank keeps a part of what it holds, so all of them have to hold the same.
    with torch.no_grad():
        for tensor in itertools.chain(module.parameters(), module.buffers()):
            dist.broadcast(tensor.data, 0)


def _local(tensor: Tensor) -> Tensor:
    return cast(DTensor, tensor).to_local()
