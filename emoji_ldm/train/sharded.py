"""Optimiser steps with DeepSpeed ZeRO: optimiser (1), gradients (2) and weights (3) live in shards on the ranks."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from emoji_ldm.train.engine import Piece, adamw, set_lr, whole_pieces
from emoji_ldm.train.plan import Plan
from emoji_ldm.train.world import World


class DeepSpeedEngine:
    """Ranks of one process group; stage 0 averages gradients, 1 to 3 shard optimiser, gradients, weights."""

    def __init__(self, module: nn.Module, plan: Plan, world: World) -> None:
        if world.device.type == "cpu":
            os.environ["DS_ACCELERATOR"] = "cpu"  # read at import: a CPU rank on a GPU machine stays on the CPU
        import deepspeed

        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        # On CPU ranks DeepSpeed would compile a C++ extension first, which takes minutes; gloo does as well.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        _join_alone(world)
        self.stage, self.clip, self.rank = plan.zero_stage, plan.grad_clip, world.rank
        named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
        self.names, self.parameters = [name for name, _ in named], [parameter for _, parameter in named]
        self.engine: Any = deepspeed.initialize(
            model=module, optimizer=adamw(module, plan), config=_settings(plan, world), dist_init_required=False
        )[0]
        wrapper = self.engine.optimizer
        self.optimizer: torch.optim.Optimizer = wrapper if self.stage == 0 else wrapper.optimizer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward; at stage 3 weights are gathered layer by layer."""
        return self.engine(*args, **kwargs)

    def accumulate(self, loss: Tensor, *, last: bool) -> None:
        """Backward with the average over ranks."""
        self.engine.backward(loss)

    def step(self, lr: float, limit: float) -> Tensor:
        """Clip, AdamW on the local shard."""
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip) if self.stage == 0 else None
        set_lr(self.optimizer, lr)
        self.engine.step()
        return torch.as_tensor(norm if norm is not None else self.engine.get_global_grad_norm())

    def shards(self) -> list[Tensor]:
        """Stage 0: whole parameters; 1 and 2: a slice of the flat weights; 3: slices of each."""
        if self.stage == 0:
            return [parameter.detach() for parameter in self.parameters]
        return [tensor.detach() for tensor in self.states()]

    def states(self) -> list[Tensor]:
        """The optimiser's keys, one per shard."""
        if self.stage == 0:
            return list(self.parameters)
        if self.stage == 3:
            return list(self.engine.optimizer.fp32_partitioned_groups_flat)
        return list(self.engine.optimizer.single_partition_of_fp32_groups)

    def pieces(self) -> list[Piece]:
        """Where DeepSpeed put each parameter's elements."""
        if self.stage == 0:
            return whole_pieces(self.names, self.parameters)
        locate = self._slice_of_each if self.stage == 3 else self._run_of_the_flat
        found = (locate(name, parameter) for name, parameter in zip(self.names, self.parameters, strict=True))
        return [piece for piece in found if piece is not None]

    def _run_of_the_flat(self, name: str, parameter: Any) -> Piece | None:
        """Stages 1 and 2 cut the row of all parameters into equal parts, one per rank."""
        mapping = parameter._hp_mapping
        if mapping is None:
            return None
        within, flat = mapping.lp_fragment_address, mapping.hp_fragment_address
        return Piece(name, tuple(parameter.shape), within.start, within.numel, mapping.param_group_index, flat.start)

    def _slice_of_each(self, name: str, parameter: Any) -> Piece | None:
        """Stage 3 cuts each parameter into equal parts; the last ones are padded, or nothing but padding."""
        shard, offset, part = self.engine.optimizer.grad_position[parameter.ds_id]
        start = part * self.rank
        length = min(part, parameter.ds_numel - start)
        return Piece(name, tuple(parameter.ds_shape), start, length, shard, offset) if length > 0 else None

    def refresh(self) -> None:
        """Cast the shards into the low-precision weights, and share these out again."""
        wrapper = self.engine.optimizer
        if self.stage in (1, 2):
            wrapper.update_lp_params()
        if self.stage == 3:
            wrapper._partition_all_parameters()  # small weights are kept whole: they must be gathered anew
            for number in range(len(wrapper.fp16_groups)):
                wrapper._reassign_or_swap_out_partitioned_parameters(number)
            if wrapper.persistent_parameters:
                wrapper.persistent_parameters[0].all_gather(wrapper.persistent_parameters)

    def gather(self, tensors: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
        """DeepSpeed can gather its master weights only, so others take their place meanwhile."""
        from deepspeed.utils import safe_get_full_fp32_param

        if self.stage == 0:
            yield from zip(self.names, tensors, strict=True)
            return
        with self._lent(tensors):
            for name, parameter in zip(self.names, self.parameters, strict=True):
                yield name, safe_get_full_fp32_param(parameter)

    def scatter(self, named: Mapping[str, Tensor], tensors: Sequence[Tensor]) -> None:
        """As `gather`: through the place of the master weights."""
        from deepspeed.utils import safe_set_full_fp32_param

        if self.stage == 0:
            for name, tensor in zip(self.names, tensors, strict=True):
                tensor.copy_(named[name])
            return
        with self._lent(tensors) as shards:
            for name, parameter in zip(self.names, self.parameters, strict=True):
                safe_set_full_fp32_param(parameter, named[name].to(shards[0].device))
            for tensor, shard in zip(tensors, shards, strict=True):
                tensor.copy_(shard)

    @contextmanager
    def _lent(self, tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        shards = self.shards()
        own = [shard.clone() for shard in shards]
        for shard, tensor in zip(shards, tensors, strict=True):
            shard.copy_(tensor)
        try:
            yield shards
        finally:
            for shard, weights in zip(shards, own, strict=True):
                shard.copy_(weights)


def _settings(plan: Plan, world: World) -> dict[str, Any]:
    """DeepSpeed's configuration. Weights stay fp32: bf16 is autocast, for bf16-stored weights cost quality."""
    return {
        "train_batch_size": plan.batch_size,
        "train_micro_batch_size_per_gpu": plan.batch_size // world.size,
        "gradient_clipping": plan.grad_clip if plan.zero_stage else 0.0,
        "zero_optimization": {"stage": plan.zero_stage},
        "zero_allow_untested_optimizer": True,
        "torch_autocast": {"enabled": plan.precision == "bf16", "dtype": "bfloat16"},
        "steps_per_print": 2**31,
    }


def _join_alone(world: World) -> None:
    """DeepSpeed wants a process group even for one rank."""
    if world.size == 1 and not dist.is_initialized():
        backend = "nccl" if world.device.type == "cuda" else "gloo"
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}  # DeepSpeed reads them
        store = torch.distributed.TCPStore(  # type: ignore[attr-defined]
            "127.0.0.1", 0, 1, is_master=True
        )
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
