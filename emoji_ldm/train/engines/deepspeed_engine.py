"""Optimiser steps with DeepSpeed ZeRO: optimiser (1), gradients (2) and weights (3) live in shards on the ranks."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from emoji_ldm.train.deepspeed_compat import hide_package
from emoji_ldm.train.engines.device import num_micro_batches
from emoji_ldm.train.engines.distributed import DistributedContext
from emoji_ldm.train.engines.optimizer import build_optimizer, gradient_norm, guard_step, set_lr, trainable_parameters
from emoji_ldm.train.engines.sharded_state import ShardSlice, whole_slices
from emoji_ldm.train.training_args import TrainingArgs

BUCKET_ELEMENTS = (
    10_000_000  # most elements that are reduced or gathered at once; DeepSpeed's 500 million cost 1 GB of memory
)
PERSISTENT_ELEMENTS = 4096  # elements of a parameter that stage 3 keeps whole: norms and biases, 0.5 % of a U-Net


class DeepSpeedEngine:
    """Ranks of one process group; stage 0 averages gradients, 1 to 3 shard optimiser, gradients, weights."""

    def __init__(self, module: nn.Module, plan: TrainingArgs, world: DistributedContext) -> None:
        if world.device.type == "cpu":
            os.environ["DS_ACCELERATOR"] = "cpu"  # read at import: a CPU rank on a GPU machine stays on the CPU
        with hide_package("mlflow"):  # its tuner, which is not used here, would import that: 2.5 s of a core per rank
            import deepspeed

        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        # On CPU ranks DeepSpeed would compile a C++ extension first, which takes minutes; gloo does as well.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self.stage, self.clip, self.rank = plan.zero_stage, plan.grad_clip, world.rank
        self.names, self.parameters = trainable_parameters(module)
        masters = self._masters() if plan.precision == "bf16" and self.stage else {}
        self.engine: Any = deepspeed.initialize(
            model=module,
            optimizer=build_optimizer(self.parameters, plan),
            config=deepspeed_config(plan, world, sum(parameter.numel() for parameter in self.parameters)),
            dist_init_required=False,
        )[0]
        wrapper = self.engine.optimizer
        self.optimizer: torch.optim.Optimizer = wrapper if self.stage == 0 else wrapper.optimizer
        self._restore(masters)
        if self.stage == 3:  # no other way to keep DeepSpeed from waiting for the norm; `step` has its own
            wrapper._get_norm_groups = lambda: [torch.zeros(())]
        if plan.compile:
            self.engine.compile()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward; at stage 3 weights are gathered layer by layer."""
        return self.engine(*args, **kwargs)

    def accumulate(self, loss: Tensor, *, last: bool) -> None:
        """Backward; stages 2 and 3 reduce each time, 0 and 1 the sum of a step."""
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss)

    def step(self, lr: float, limit: float) -> Tensor:
        """Clip, AdamW on the local shard."""
        norm = gradient_norm(self._gradients())
        if self.stage:
            squares = norm.square()
            dist.all_reduce(squares)
            norm = squares.sqrt()
        guard_step(self.optimizer, norm, self.clip, limit)
        set_lr(self.optimizer, lr)
        self.engine.step()
        return norm

    def _gradients(self) -> list[Tensor]:
        """The rank's share of the averaged gradients; all of them at stage 0, alike on every rank."""
        if self.stage == 0:
            return [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        return [gradient for group in self.engine.optimizer.averaged_gradients.values() for gradient in group]

    def _masters(self) -> dict[str, Tensor]:
        """The fp32 weights, kept aside while DeepSpeed rounds the module to bf16 and makes its masters of that."""
        return {name: parameter.detach().to("cpu", copy=True)
                for name, parameter in zip(self.names, self.parameters, strict=True)}  # fmt: skip

    def _restore(self, masters: Mapping[str, Tensor]) -> None:
        shards = self.shards()
        for piece in self.pieces() if masters else []:
            values = masters[piece.name].flatten()[piece.start : piece.start + piece.length]
            shards[piece.shard][piece.offset : piece.offset + piece.length] = values

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

    def pieces(self) -> list[ShardSlice]:
        """Where DeepSpeed put each parameter's elements."""
        if self.stage == 0:
            return whole_slices(self.names, self.parameters)
        locate = self._slice_of_each if self.stage == 3 else self._run_of_the_flat
        found = (locate(name, parameter) for name, parameter in zip(self.names, self.parameters, strict=True))
        return [piece for piece in found if piece is not None]

    def _run_of_the_flat(self, name: str, parameter: Any) -> ShardSlice | None:
        """Stages 1 and 2 cut the row of all parameters into equal parts, one per rank."""
        mapping = parameter._hp_mapping
        if mapping is None:
            return None
        within, flat = mapping.lp_fragment_address, mapping.hp_fragment_address
        return ShardSlice(
            name, tuple(parameter.shape), within.start, within.numel, mapping.param_group_index, flat.start
        )

    def _slice_of_each(self, name: str, parameter: Any) -> ShardSlice | None:
        """Stage 3 cuts each parameter into equal parts; the last ones are padded, or nothing but padding."""
        shard, offset, part = self.engine.optimizer.grad_position[parameter.ds_id]
        start = part * self.rank
        length = min(part, parameter.ds_numel - start)
        return ShardSlice(name, tuple(parameter.ds_shape), start, length, shard, offset) if length > 0 else None

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


def deepspeed_config(plan: TrainingArgs, world: DistributedContext, num_weights: int) -> dict[str, Any]:
    """DeepSpeed's configuration. Stage 0 keeps fp32 weights; above it, bf16 ones work and fp32 masters are sharded.

    Norm, clipping and the guard are ours (`step`), for DeepSpeed's make the host wait for the device.
    """
    parts, lowered = num_micro_batches(plan, world.size), plan.precision == "bf16" and plan.zero_stage > 0
    bucket = min(BUCKET_ELEMENTS, max(num_weights // 16, 1))
    zero: dict[str, Any] = {
        "stage": plan.zero_stage, "reduce_bucket_size": bucket, "allgather_bucket_size": BUCKET_ELEMENTS,
        "stage3_param_persistence_threshold": PERSISTENT_ELEMENTS, "compute_grad_norm": plan.zero_stage not in (1, 2),
    }  # fmt: skip
    return {
        "train_batch_size": plan.batch_size,
        "train_micro_batch_size_per_gpu": plan.batch_size // world.size // parts,
        "gradient_accumulation_steps": parts,
        "gradient_clipping": 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": lowered, "check_grad_overflow": False},
        # Many small gradients added up in bf16 would lose bits. Stage 1 with fp32 ones is another DeepSpeed optimiser.
        "data_types": {"grad_accum_dtype": "fp32" if lowered and parts > 1 and plan.zero_stage > 1 else None},
        "steps_per_print": 2**31,
        "timers": {"throughput": {"enabled": False}},  # it waits for the device at each step
    }
