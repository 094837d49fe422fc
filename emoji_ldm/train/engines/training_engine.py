"""The engine that makes optimiser steps: its interface, and the implementation for one process.

Vocabulary. The *master weights* are the fp32 weights that the optimiser updates; the *working weights* are what the
forward pass reads. Under ZeRO each rank has only a part of the masters, its *shards*. Adam's moments and the moving
averages have the shards' shapes. A *slice* says which elements of which named parameter lie where in the shards, so
that a checkpoint of one layout can be read into any other: another number of ranks, or another ZeRO stage.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from emoji_ldm.train.engines.distributed import DistributedContext, num_micro_batches, prepare_module
from emoji_ldm.train.engines.loss_scale import LossScale
from emoji_ldm.train.engines.optimizer import build_optimizer, gradient_norm, guard_step, set_lr, trainable_parameters
from emoji_ldm.train.engines.sharded_state import ShardSlice, whole_slices
from emoji_ldm.train.training_args import TrainingArgs


class TrainingEngine(Protocol):
    """A module with its optimiser."""

    # This is the optimiser itself and not the ZeRO optimiser around it, since `OptimizerState` reads its state.
    optimizer: torch.optim.Optimizer
    loss_scale: LossScale

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward in the configured precision."""
        ...

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Backward of one micro-batch; gradients become the mean over a step's micro-batches, which `last` ends."""
        ...

    def step(self, lr: float, max_accepted_norm: float) -> Tensor:
        """Clip and update, unless the gradient norm is not finite or above `max_accepted_norm`.

        Returns:
            The norm before clipping, `()`, on the device.
        """
        ...

    def master_shards(self) -> list[Tensor]:
        """The local fp32 master weights."""
        ...

    def optimizer_state_keys(self) -> list[Tensor]:
        """The keys of `optimizer.state`, one per shard."""
        ...

    def slices(self) -> list[ShardSlice]:
        """Where named parameters lie in this rank's shards."""
        ...

    def sync_working_weights(self) -> None:
        """Make the working weights equal to the master shards after these were written to; a collective."""
        ...


def build_engine(module: nn.Module, args: TrainingArgs, ranks: DistributedContext) -> TrainingEngine:
    """What `args.sharding` names for several ranks; plain torch for one, which has nothing to shard but may offload."""
    # Device and precision come first: an engine takes the parameters as it finds them.
    prepare_module(module, args, ranks)
    if ranks.world_size == 1 and not args.offload:
        return TorchEngine(module, args)
    # The imports are here, as each takes seconds.
    if args.sharding == "fsdp2":
        from emoji_ldm.train.engines.fsdp_engine import FsdpEngine

        return FsdpEngine(module, args, ranks)
    from emoji_ldm.train.engines.deepspeed_engine import DeepSpeedEngine

    return DeepSpeedEngine(module, args, ranks)


class TorchEngine:
    """The `TrainingEngine` of a single process; its shards are the parameters themselves."""

    def __init__(self, module: nn.Module, args: TrainingArgs) -> None:
        self.module, self.clip = module, args.grad_clip
        self.num_parts = num_micro_batches(args, 1)
        self.names, self.parameters = trainable_parameters(module)
        self.optimizer = build_optimizer(self.names, self.parameters, args)
        self.loss_scale = LossScale(args.precision, self.parameters[0].device)
        if args.compile:
            # The module is compiled in place: `torch.compile(module)` returns a wrapper whose parameters have other
            # names, and a checkpoint is read by these names.
            module.compile()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward."""
        return self.module(*args, **kwargs)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Accumulate gradients."""
        # Gradients of the micro-batches add up in `.grad`, so each contributes its share of the mean.
        (self.loss_scale.scaled(loss) / self.num_parts).backward()  # type: ignore[no-untyped-call]

    def step(self, lr: float, max_accepted_norm: float) -> Tensor:
        """Clip, then update."""
        # The norm stays on the device, and so does the decision that `guard_step` makes with it.
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = self.loss_scale.unscaled(gradient_norm(gradients))
        guard_step(self.optimizer, norm, self.clip, max_accepted_norm, self.loss_scale.value)
        self.loss_scale.update(norm)
        set_lr(self.optimizer, lr)
        self.optimizer.step()
        # This holds after a skipped step too: its gradients must not be added to the next ones.
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def master_shards(self) -> list[Tensor]:
        """The parameters themselves."""
        return [parameter.detach() for parameter in self.parameters]

    def optimizer_state_keys(self) -> list[Tensor]:
        """The parameters, one per shard."""
        return list(self.parameters)

    def slices(self) -> list[ShardSlice]:
        """Each parameter is one shard."""
        return whole_slices(self.names, self.parameters)

    def sync_working_weights(self) -> None:
        """Do nothing: the shards are the working weights."""
