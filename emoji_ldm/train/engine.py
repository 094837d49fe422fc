"""One optimiser step, sharded by DeepSpeed or plain: the same few verbs, and portable state.

An engine's *shards* are its local fp32 master weights; Adam's moments and the moving averages
have their shapes. `pieces` says which elements of which parameter lie where in them, so that a
checkpoint fits any number of ranks and any ZeRO stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from emoji_ldm.train.adam import adamw, guard, set_lr
from emoji_ldm.train.device import num_parts, prepare
from emoji_ldm.train.plan import Plan
from emoji_ldm.train.world import World


@dataclass(frozen=True)
class Piece:
    """A run of a parameter's elements, and where it lies in the local shards."""

    name: str  # of the parameter
    shape: tuple[int, ...]  # of the whole parameter
    start: int  # first element, counted in the flattened parameter
    length: int
    shard: int  # place in `Engine.shards()`
    offset: int  # first element, counted in the flattened shard


class Engine(Protocol):
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

    def pieces(self) -> list[Piece]:
        """Where named parameters lie in this rank's shards; ranks that hold the same elements share them out."""
        ...

    def refresh(self) -> None:
        """Make the working weights equal to the shards, after somebody wrote into these; a collective."""
        ...


def build_engine(module: nn.Module, plan: Plan, world: World) -> Engine:
    """DeepSpeed (see `device.check`) for several ranks, plain torch for one, over which no ZeRO stage shards."""
    prepare(module, plan, world)
    if world.size == 1:
        return PlainEngine(module, plan)
    from emoji_ldm.train.sharded import DeepSpeedEngine

    return DeepSpeedEngine(module, plan, world)


class PlainEngine:
    """One process, torch only."""

    def __init__(self, module: nn.Module, plan: Plan) -> None:
        self.module, self.clip = module, plan.grad_clip
        self.num_parts = num_parts(plan, 1)
        self.names, self.parameters = trainable(module)
        self.optimizer = adamw(self.parameters, plan)
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
        norm = norm_of([parameter.grad for parameter in self.parameters if parameter.grad is not None])
        guard(self.optimizer, norm, self.clip, limit)
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

    def pieces(self) -> list[Piece]:
        """Each parameter is one shard."""
        return whole_pieces(self.names, self.parameters)

    def refresh(self) -> None:
        """Nothing: the shards are the working weights."""


def whole_pieces(names: Sequence[str], parameters: Sequence[Tensor]) -> list[Piece]:
    """The pieces where each parameter is one shard."""
    return [Piece(name, tuple(parameter.shape), 0, parameter.numel(), number, 0)
            for number, (name, parameter) in enumerate(zip(names, parameters, strict=True))]  # fmt: skip


def trainable(module: nn.Module) -> tuple[list[str], list[nn.Parameter]]:
    """Names and parameters that are not frozen."""
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    return [name for name, _ in named], [parameter for _, parameter in named]


def norm_of(gradients: Sequence[Tensor]) -> Tensor:
    """The L2 norm of all of them together, `()` fp32."""
    whole: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(gradients), 2, torch.float32)))
    return whole
