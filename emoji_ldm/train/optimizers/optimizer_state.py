"""The state of any optimiser as fp32 tensors and numbers, which checkpoints store and resumed trainings write back.

Most state has one value per weight and is sharded as the weights are: Adam's moments, Lion's momentum. Adafactor's has
one value per row or column, which is stored whole; it is only used where every rank holds whole weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from emoji_ldm.train.engines import loss_scale as loss_scales
from emoji_ldm.train.engines.loss_scale import LossScale
from emoji_ldm.train.engines.sharded_state import ShardSlice
from emoji_ldm.train.optimizers import prodigy

FIRST_WEIGHTS = "first_weights"  # Prodigy's state that does not begin at zero
MOMENT_NAMES = ("exp_avg", "exp_avg_sq")  # torch's names, also those in checkpoints


class OptimizerState:
    """The state of some tensors that an optimiser updates, to be read or written.

    fp32 state consists of the optimiser's own tensors, so a copy of it is exact. 8-bit moments are read as fp32 copies;
    writing them back rounds the scale of each block anew.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, keys: Sequence[Tensor], loss_scale: LossScale | None = None
    ) -> None:
        """Take the tensors `keys` that `optimizer` updates; state that does not exist yet is made now.

        `loss_scale` is stored with the optimiser's own numbers.
        """
        self.optimizer: Any = optimizer
        self.loss_scale = loss_scale
        self.states = [self._state(key) for key in keys]
        found = [_read_tensors(state) for state in self.states]
        kinds = dict.fromkeys(kind for tensors in found for kind in tensors)
        # A list per kind has an entry for each shard: None where a shard has no state of that kind.
        self.by_shard = {kind: [tensors.get(kind) for tensors in found] for kind in kinds}

    @property
    def tensors(self) -> dict[str, list[Tensor]]:
        """`{kind: tensors}`, in the order of the shards that have state of that kind."""
        return {kind: [tensor for tensor in of_kind if tensor is not None] for kind, of_kind in self.by_shard.items()}

    def slices(self, weights: Sequence[ShardSlice]) -> dict[str, list[ShardSlice]]:
        """`{kind: slices of its `tensors`}`, given the slices of the weights."""
        return {kind: _state_slices(weights, of_kind) for kind, of_kind in self.by_shard.items()}

    @property
    def step(self) -> int:
        """Number of updates so far: steps without those that were skipped."""
        # All shards were updated equally often; a rank may have none, at ZeRO stage 3 with very few weights.
        return max((int(state["step"]) for state in self.states), default=0)

    @property
    def scalars(self) -> dict[str, float]:
        """Numbers that all weights share: Prodigy's estimate, the loss scale of fp16."""
        return {**getattr(self.optimizer, "scalars", {}), **(self.loss_scale.scalars if self.loss_scale else {})}

    def write_back(self, step: int, scalars: Mapping[str, float]) -> None:
        """Make what was written into `tensors` effective, with `step` as the number of updates so far."""
        if hasattr(self.optimizer, "scalars"):
            self.optimizer.scalars = {name: scalars[name] for name in self.optimizer.scalars}
        if self.loss_scale:
            self.loss_scale.load(scalars)
        for index, state in enumerate(self.states):
            # torch counts updates in a tensor, the others in an int.
            if isinstance(state["step"], Tensor):
                state["step"].fill_(step)
            else:
                state["step"] = step
            if _is_quantized(state):
                from emoji_ldm.train.engines.bitsandbytes_compat import quantize

                for number, kind in enumerate(MOMENT_NAMES, 1):
                    moment = self.by_shard[kind][index]
                    assert moment is not None, "AdamW has both moments of every weight"
                    quantize(moment, state, number)

    def reset(self, weights: Sequence[Tensor]) -> None:
        """Bring the state to what it is before the first step from these weights, one per shard."""
        for kind, of_kind in self.by_shard.items():
            for weight, tensor in zip(weights, of_kind, strict=True):
                if tensor is not None:
                    tensor.copy_(weight if kind == FIRST_WEIGHTS else torch.zeros_like(tensor))
        first = {**prodigy.FIRST_SCALARS, **loss_scales.FIRST_SCALARS}
        self.write_back(0, {name: first[name] for name in self.scalars})

    def _state(self, key: Tensor) -> dict[str, Any]:
        # A checkpoint is read before the first step, at which optimisers make their state. So it is made here if there
        # is none.
        if not self.optimizer.state[key]:
            self._make_state(key)
        state: dict[str, Any] = self.optimizer.state[key]
        return state

    def _make_state(self, key: Tensor) -> None:
        if type(self.optimizer) is torch.optim.AdamW:
            # These are the tensors that AdamW makes at its first step.
            zeros = {kind: torch.zeros_like(key) for kind in MOMENT_NAMES}
            self.optimizer.state[key] = {"step": torch.zeros((), dtype=torch.float32, device=key.device), **zeros}
        else:
            self.optimizer.make_state(key)


def _state_slices(weights: Sequence[ShardSlice], tensors: Sequence[Tensor | None]) -> list[ShardSlice]:
    # Slices count the tensors of one kind, of which a shard may have none.
    positions = {shard: position for position, shard in enumerate(n for n, t in enumerate(tensors) if t is not None)}
    found = []
    for piece in weights:
        tensor = tensors[piece.shard]
        if tensor is None:
            continue
        # One value per row or column of a whole weight. Shards that hold parts of weights have one dimension.
        if tensor.ndim > 1 and tensor.numel() != piece.length:
            piece = replace(piece, shape=tuple(tensor.shape), length=tensor.numel())
        found.append(replace(piece, shard=positions[piece.shard]))
    return found


def _read_tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    if _is_quantized(state):
        from emoji_ldm.train.engines.bitsandbytes_compat import dequantize

        return {kind: dequantize(state, number) for number, kind in enumerate(MOMENT_NAMES, 1)}
    if "state1" in state:  # bitsandbytes keeps small tensors as they are
        return {kind: state[f"state{number}"] for number, kind in enumerate(MOMENT_NAMES, 1)}
    return {kind: value for kind, value in state.items() if kind != "step" and isinstance(value, Tensor)}


def _is_quantized(state: Mapping[str, Any]) -> bool:
    # Asked without the library, which is installed only where it is used.
    return "qmap1" in state
