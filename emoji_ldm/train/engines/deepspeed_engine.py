"""The training engine for several ranks: DeepSpeed ZeRO shards optimiser (1), gradients (2) and weights (3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from emoji_ldm.train.engines import deepspeed_compat
from emoji_ldm.train.engines.distributed import DistributedContext, num_micro_batches
from emoji_ldm.train.engines.loss_scale import LossScale
from emoji_ldm.train.engines.optimizer import build_optimizer, gradient_norm, guard_step, set_lr, trainable_parameters
from emoji_ldm.train.engines.sharded_state import ShardSlice, whole_slices
from emoji_ldm.train.training_args import TrainingArgs

# Most elements that are reduced or gathered at once: DeepSpeed's default of 500 million costs 1 GB of memory.
BUCKET_ELEMENTS = 10_000_000
# Parameters up to this size are not sharded by stage 3: norms and biases, 0.5 % of a U-Net, in one gather each.
PERSISTENT_ELEMENTS = 4096


class DeepSpeedEngine:
    """The `TrainingEngine` of a process group; stage 0 averages gradients, stages 1 to 3 shard as well."""

    def __init__(self, module: nn.Module, args: TrainingArgs, ranks: DistributedContext) -> None:
        deepspeed = deepspeed_compat.import_deepspeed(ranks.device.type)
        self.stage, self.clip, self.rank = args.zero_stage, args.grad_clip, ranks.rank
        self.device, self.offloads = ranks.device, args.offload is not None
        self.names, self.parameters = trainable_parameters(module)
        # DeepSpeed knows nothing of fp16: its weights and gradients are fp32, and the scale is the engine's own.
        self.loss_scale = LossScale(args.precision, ranks.device)
        # DeepSpeed rounds the module to bf16 and makes its fp32 masters of the rounded weights. The exact ones are kept
        # aside and written into the masters below. The working weights need no update: they are those, rounded.
        masters = self._copy_weights() if args.precision == "bf16" and self.stage else {}
        self.engine: Any = deepspeed.initialize(
            model=module,
            optimizer=build_optimizer(self.names, self.parameters, args, sharded=self.stage > 0),
            config=deepspeed_config(args, ranks, sum(parameter.numel() for parameter in self.parameters)),
            # The process group exists already: Ray Train made it.
            dist_init_required=False,
        )[0]
        wrapper = self.engine.optimizer
        # Learning rate, guard and moments belong to the optimiser itself, which ZeRO wraps and stage 0 does not.
        self.optimizer: torch.optim.Optimizer = wrapper if self.stage == 0 else wrapper.optimizer
        self._restore_masters(masters)
        if self.stage == 3:
            deepspeed_compat.skip_norm_computation(wrapper)
        if args.compile:
            self.engine.compile()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward; at stage 3 weights are gathered layer by layer."""
        return self.engine(*args, **kwargs)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Backward of one micro-batch; stages 2 and 3 reduce gradients each time, 0 and 1 once per step."""
        # DeepSpeed counts micro-batches by the calls of its `step`, of which the loop makes one per optimiser step
        # only. So it is told where a step ends.
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(self.loss_scale.scaled(loss))

    def step(self, lr: float, max_accepted_norm: float) -> Tensor:
        """Clip, then update the local shard."""
        norm = gradient_norm(self._gradients())
        # Under ZeRO each rank has a part of the gradients, and the squares of the parts' norms add up to that of the
        # whole. At stage 0 every rank has all of them. Offloaded ones lie in host memory, which NCCL cannot reduce.
        if self.stage:
            squares = norm.square().to(self.device)
            dist.all_reduce(squares)
            norm = squares.sqrt()
        norm = self.loss_scale.unscaled(norm)
        guard_step(
            self.optimizer, norm, self.clip, max_accepted_norm, self.loss_scale.value, offloaded=self.offloads
        )  # fmt: skip
        self.loss_scale.update(norm)
        # DeepSpeed is given no scheduler: the rate is a function of the step, so that a resume needs no scheduler
        # state.
        set_lr(self.optimizer, lr)
        self.engine.step()
        return norm

    def master_shards(self) -> list[Tensor]:
        """Stage 0: whole parameters; 1 and 2: a part of the flat weights; 3: a part of each parameter."""
        return [tensor.detach() for tensor in self.optimizer_state_keys()]

    def optimizer_state_keys(self) -> list[Tensor]:
        """The keys of `optimizer.state`, one per shard."""
        if self.stage == 0:
            return list(self.parameters)
        return deepspeed_compat.master_keys(self.engine.optimizer, self.stage)

    def slices(self) -> list[ShardSlice]:
        """Where DeepSpeed put each parameter's elements."""
        if self.stage == 0:
            return whole_slices(self.names, self.parameters)
        located = (
            deepspeed_compat.locate_slice(self.engine.optimizer, self.stage, self.rank, name, parameter)
            for name, parameter in zip(self.names, self.parameters, strict=True)
        )
        return [piece for piece in located if piece is not None]

    def sync_working_weights(self) -> None:
        """Cast the shards into the working weights, and share these among the ranks."""
        deepspeed_compat.sync_working_weights(self.engine.optimizer, self.stage)

    def _gradients(self) -> list[Tensor]:
        """The local share of the averaged gradients; at stage 0 all of them, the same on every rank."""
        if self.stage == 0:
            return [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        if self.offloads:
            return deepspeed_compat.offloaded_gradients(self.optimizer_state_keys(), self.device)
        return deepspeed_compat.averaged_gradients(self.engine.optimizer)

    def _copy_weights(self) -> dict[str, Tensor]:
        # The copies are on the CPU, since the device may have no room for the weights twice.
        return {name: parameter.detach().to("cpu", copy=True)
                for name, parameter in zip(self.names, self.parameters, strict=True)}  # fmt: skip

    def _restore_masters(self, weights: Mapping[str, Tensor]) -> None:
        """Write the fp32 weights as they were before DeepSpeed rounded them into the master shards."""
        shards = self.master_shards()
        for piece in self.slices() if weights else []:
            # A shard may hold the end of one parameter and the start of the next, so values are copied slice by slice.
            values = weights[piece.name].flatten()[piece.start : piece.start + piece.length]
            shards[piece.shard][piece.offset : piece.offset + piece.length] = values


def deepspeed_config(args: TrainingArgs, ranks: DistributedContext, num_weights: int) -> dict[str, Any]:
    """DeepSpeed's configuration. Stage 0 keeps fp32 weights; above it, bf16 ones work and fp32 masters are sharded.

    Norm, clipping and the step guard are the engine's own (`step`): DeepSpeed's make the host wait for the device.
    """
    num_parts = num_micro_batches(args, ranks.world_size)
    half_precision = args.precision == "bf16" and args.zero_stage > 0
    # Small networks get smaller buckets, so that reduction begins while the backward pass is still running.
    bucket = min(BUCKET_ELEMENTS, max(num_weights // 16, 1))
    # `compute_grad_norm` can be turned off at stages 1 and 2 only, for stage 3 `skip_norm_computation` does it. Nor can
    # it with offload, for which the host waits anyway.
    zero: dict[str, Any] = {
        "stage": args.zero_stage, "reduce_bucket_size": bucket, "allgather_bucket_size": BUCKET_ELEMENTS,
        "stage3_param_persistence_threshold": PERSISTENT_ELEMENTS,
        "compute_grad_norm": args.zero_stage not in (1, 2) or args.offload is not None,
    }  # fmt: skip
    # Page-locked memory is what a GPU copies to and from without the CPU.
    offload = {"device": "cpu", "pin_memory": ranks.device.type == "cuda"}
    zero |= {"offload_optimizer": offload} if args.offload else {}
    zero |= {"offload_param": offload} if args.offload == "all" else {}
    # bf16 has 8 bits of mantissa, so many small gradients added up in it vanish. With fp32 accumulation stage 1 would
    # become another DeepSpeed optimiser, whose layout is not known here.
    accumulates_in_fp32 = half_precision and num_parts > 1 and args.zero_stage > 1
    return {
        "train_batch_size": args.batch_size,
        "train_micro_batch_size_per_gpu": args.batch_size // ranks.world_size // num_parts,
        "gradient_accumulation_steps": num_parts,
        # DeepSpeed does not clip, since the AdamW does: see `guard_step`.
        "gradient_clipping": 0.0,
        "zero_optimization": zero,
        # DeepSpeed knows some optimisers by name and refuses all others without this.
        "zero_allow_untested_optimizer": True,
        # It would ask for its own AdamW, whose C++ is compiled at the first use and which knows no guarded step.
        "zero_force_ds_cpu_optimizer": False,
        # bf16 has the range of fp32, so there is no loss scale to adapt; checking for overflow would wait for the
        # device.
        "bf16": {"enabled": half_precision, "check_grad_overflow": False},
        "data_types": {"grad_accum_dtype": "fp32" if accumulates_in_fp32 else None},
        "steps_per_print": 2**31,
        # The throughput timer would wait for the device at each step.
        "timers": {"throughput": {"enabled": False}},
    }
