"""One optimiser step, sharded by DeepSpeed or plain: the same few verbs, and portable state.

An engine's *shards* are its local fp32 master weights. Anything of their shape (Adam's
moments, the moving average) can be gathered into whole named tensors and scattered back,
so that a checkpoint fits any number of ranks and any ZeRO stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from emoji_ldm.errors import ConfigError
from emoji_ldm.train.plan import Plan
from emoji_ldm.train.world import World

MOMENTS = ("exp_avg", "exp_avg_sq")


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

    optimizer: torch.optim.Optimizer  # torch's own AdamW, below whatever wraps it

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

    def gather(self, tensors: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Whole named tensors of shard-shaped ones; every rank must walk to the end."""
        ...

    def scatter(self, named: Mapping[str, Tensor], tensors: Sequence[Tensor]) -> None:
        """The inverse: fill shard-shaped tensors."""
        ...


def build_engine(module: nn.Module, plan: Plan, world: World) -> Engine:
    """DeepSpeed for several ranks or a ZeRO stage above 0, plain torch otherwise.

    Raises:
        ConfigError: DeepSpeed is needed but not installed.
    """
    module.to(world.device)
    if world.size == 1 and plan.zero_stage == 0:
        return PlainEngine(module, plan, world)
    from emoji_ldm.train.sharded import DeepSpeedEngine

    try:
        return DeepSpeedEngine(module, plan, world)
    except ModuleNotFoundError as error:
        if error.name != "deepspeed":
            raise
        raise ConfigError(
            f"{plan.section} with {world.size} workers and ZeRO stage {plan.zero_stage} needs DeepSpeed; install "
            f"'emoji-ldm[models]', or use {plan.section}.num_workers=1 and zero_stage=0"
        ) from None


def adamw(module: nn.Module, plan: Plan) -> torch.optim.AdamW:
    """The optimiser, torch's own: needs no compiled DeepSpeed op."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    # lr is set at each step; it starts at 0 because ZeRO 3 makes an empty step while it is built, which must not decay.
    return torch.optim.AdamW(parameters, lr=0.0, betas=(0.9, 0.99), weight_decay=plan.weight_decay, fused=True)


class PlainEngine:
    """One process, torch only."""

    def __init__(self, module: nn.Module, plan: Plan, world: World) -> None:
        self.module, self.clip = module, plan.grad_clip
        self.device_type, self.bf16 = world.device.type, plan.precision == "bf16"
        self.optimizer: torch.optim.Optimizer = adamw(module, plan)
        named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
        self.names, self.parameters = [name for name, _ in named], [parameter for _, parameter in named]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward in the chosen precision."""
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.bf16):
            return self.module(*args, **kwargs)

    def accumulate(self, loss: Tensor, *, last: bool) -> None:
        """Add up gradients."""
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, lr: float, limit: float) -> Tensor:
        """Clip, AdamW."""
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip)
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

    def gather(self, tensors: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Nothing to join: only the names are added."""
        yield from zip(self.names, tensors, strict=True)

    def scatter(self, named: Mapping[str, Tensor], tensors: Sequence[Tensor]) -> None:
        """Copy by name."""
        for name, tensor in zip(self.names, tensors, strict=True):
            tensor.copy_(named[name])


def whole_pieces(names: Sequence[str], parameters: Sequence[Tensor]) -> list[Piece]:
    """The pieces where each parameter is one shard."""
    return [Piece(name, tuple(parameter.shape), 0, parameter.numel(), number, 0)
            for number, (name, parameter) in enumerate(zip(names, parameters, strict=True))]  # fmt: skip


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr
