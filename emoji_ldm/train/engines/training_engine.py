"""One optimiser step, sharded by DeepSpeed or plain: the same few verbs, and portable state.

An engine's *shards* are its local fp32 master weights; Adam's moments and the moving averages
have their shapes. `pieces` says which elements of which parameter lie where in them, so that a
checkpoint fits any number of ranks and any ZeRO stage.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from emoji_ldm.train.engines.device import num_micro_batches, prepare_module
from emoji_ldm.train.engines.distributed import DistributedContext
from emoji_ldm.train.engines.optimizer import build_optimizer, gradient_norm, guard_step, set_lr, trainable_parameters
from emoji_ldm.train.engines.sharded_state import ShardSlice, whole_slices
from emoji_ldm.train.training_args import TrainingArgs


class TrainingEngine(Protocol):
    """A module with its optimiser."""

    optimizer: torch.optim.Optimizer  # the AdamW below whatever wraps it; see `adam.Moments`

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward in the chosen precision."""
        ...

    def accumulate(self, loss: Tensor, *, last: bool) -> None:
        """Backward of one micro-batch; gradients become the mean over a step's micro-batches, which `last` ends."""
        ...

    def step(self, lr: float, limit: float) -> Tensor:
        """Clip and update, unless the gradient norm is not finite or above `limit`; returns it, unclipped, `()`."""
        ...

    def shards(self) -> list[Tensor]:
        """The local fp32 master weights."""
        ...

    def states(self) -> list[Tensor]:
        """The keys of `optimizer.state`, one per shard."""
        ...

    def pieces(self) -> list[ShardSlice]:
        """Where named parameters lie in this rank's shards; ranks that hold the same elements share them out."""
        ...

    def refresh(self) -> None:
        """Make the working weights equal to the shards, after somebody wrote into these; a collective."""
        ...


def build_engine(module: nn.Module, plan: TrainingArgs, world: DistributedContext) -> TrainingEngine:
    """DeepSpeed (see `device.check`) for several ranks, plain torch for one, over which no ZeRO stage shards."""
    prepare_module(module, plan, world)
    if world.size == 1:
        return TorchEngine(module, plan)
    from emoji_ldm.train.engines.deepspeed_engine import DeepSpeedEngine

    return DeepSpeedEngine(module, plan, world)


class TorchEngine:
    """One process, torch only."""

    def __init__(self, module: nn.Module, plan: TrainingArgs) -> None:
        self.module, self.clip = module, plan.grad_clip
        self.num_parts = num_micro_batches(plan, 1)
        self.names, self.parameters = trainable_parameters(module)
        self.optimizer = build_optimizer(self.parameters, plan)
        if plan.compile:
            module.compile()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward."""
        return self.module(*args, **kwargs)

    def accumulate(self, loss: Tensor, *, last: bool) -> None:
        """Add up gradients."""
        (loss / self.num_parts).backward()  # type: ignore[no-untyped-call]

    def step(self, lr: float, limit: float) -> Tensor:
        """Clip, AdamW."""
        norm = gradient_norm([parameter.grad for parameter in self.parameters if parameter.grad is not None])
        guard_step(self.optimizer, norm, self.clip, limit)
        set_lr(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def shards(self) -> list[Tensor]:
        """The parameters themselves."""
        return [parameter.detach() for parameter in self.parameters]

    def states(self) -> list[Tensor]:
        """The optimiser's keys, one per shard."""
        return list(self.parameters)

    def pieces(self) -> list[ShardSlice]:
        """Each parameter is one shard."""
        return whole_slices(self.names, self.parameters)

    def refresh(self) -> None:
        """Nothing: the shards are the working weights."""
