"""What a training needs before it starts: memory of each rank by purpose, and the size of its checkpoints.

Weights, optimiser and averages follow from the number of parameters and from how ZeRO shards them (arXiv 1910.02054).
The peak of a forward and backward pass is found by running both on tensors without values, which has the shapes and the
lifetimes of the real ones and takes no memory. Allocators and kernels need a few per cent more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, nn

from emoji_ldm.config.train.optimizer import LARGEST_ZERO_STAGE
from emoji_ldm.train.engines.fsdp_engine import LARGEST_UNIT
from emoji_ldm.train.meta_memory_compat import peak_bytes
from emoji_ldm.train.training_args import TrainingArgs

FP32, BF16 = 4, 2  # bytes per value
# Values that an optimiser keeps per weight; Adafactor's rows and columns are so few that they do not count.
STATE_VALUES = {"adamw": 2.0, "adamw8bit": 0.5, "adafactor": 0.0, "lion": 1.0, "prodigy": 4.0, "muon": 1.0}
# Under autocast norms and softmax stay fp32, and the rest of the activations has half the size.
AUTOCAST_FACTOR = 0.6

Forward = Callable[[int], Tensor]
"""Runs the network on a batch of so many samples of the device `meta`; returns a scalar to differentiate."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of one rank: `device` where the network runs, `host` beside it in the memory of its process."""

    device: dict[str, int]
    host: dict[str, int]
    checkpoint: int  # of all ranks together, in the store

    @property
    def device_total(self) -> int:
        """Sum of what lies on the device."""
        return sum(self.device.values())

    @property
    def host_total(self) -> int:
        """Sum of what lies in the process's memory beside it."""
        return sum(self.host.values())


class MemoryPlanner:
    """Plans trainings of one network with various options."""

    def __init__(self, module: nn.Module, forward: Forward, *, on_gpu: bool) -> None:
        """Take a module on the device `meta`, with `requires_grad` set as it is trained."""
        self.module, self.forward, self.on_gpu = module, forward, on_gpu
        self.trained = sum(one.numel() for one in module.parameters() if one.requires_grad)
        self.frozen = sum(one.numel() for one in module.parameters()) - self.trained
        self._peaks: dict[int, int] = {}

    def plan(self, args: TrainingArgs, num_ranks: int) -> MemoryPlan:
        """The memory of a rank and of a checkpoint."""
        # A single process has nothing to shard, but an engine that shards is what offloads.
        stage = args.zero_stage if num_ranks > 1 or args.offload else 0
        fsdp = stage > 0 and args.sharding == "fsdp2"
        half = args.precision == "bf16"
        averages = len(args.ema_widths) or int(args.ema_decay > 0)
        state = STATE_VALUES[args.optimizer]
        shard = self.trained // (num_ranks if stage else 1)
        parts = self._weights(args, num_ranks, stage, fsdp=fsdp, half=half)
        kept = {"optimiser": int(FP32 * state * shard), "averages": FP32 * averages * shard}
        parts["activations"] = self._activations(args, num_ranks, stage)
        # A save reads 8-bit moments as fp32, when there are no activations.
        if args.optimizer == "adamw8bit":
            parts["activations"] = max(parts["activations"], 2 * FP32 * shard)
        # Values are saved in fp32 whatever the precision; each rank writes an equal share of them.
        saved = int(FP32 * self.trained * (1 + state + averages))
        model = FP32 * (self.trained + self.frozen)
        # Rank 0 puts the average together from the shards, and beside it the whole model for the export.
        host = {"copy for saving": saved // num_ranks, "export (rank 0)": FP32 * self.trained + model}
        masters = parts.pop("masters")
        if args.offload and self.on_gpu:
            # The update needs gradients where the masters are.
            host |= {"masters and gradients": masters + FP32 * shard, **({} if args.offload_folder else kept)}
        else:
            parts["weights"] += masters
            parts |= kept
        if not self.on_gpu:
            parts["copy for saving"] = host.pop("copy for saving")
        return MemoryPlan(parts, host, saved + model)

    def _weights(self, args: TrainingArgs, num_ranks: int, stage: int, *, fsdp: bool, half: bool) -> dict[str, int]:
        """Bytes of the weights that the network computes with, of fp32 masters beside them, and of gradients."""
        # Sharded stages compute with bf16 copies of the fp32 masters; all else with the masters themselves.
        working = BF16 if half and stage else FP32
        whole = self.trained + self.frozen
        if fsdp:
            # FSDP2 shards frozen weights too. Gathered are all weights, or the unit at work and the next one.
            gathered = 1.0 if stage < 3 else 2 * LARGEST_UNIT
            units = int(working * gathered * whole)
            gradients = FP32 * (self.trained // num_ranks) + int(2 * LARGEST_UNIT * working * self.trained)
            return {"weights": units, "gradients": gradients, "masters": FP32 * whole // num_ranks}
        held = whole // (num_ranks if stage == 3 else 1) if args.offload != "all" else 0
        gradients = working * (self.trained // (num_ranks if stage >= 2 else 1))
        # Offloaded gradients leave the GPU as they are made, but for stage 1, which reduces them all at the end.
        gradients = 0 if args.offload and stage >= 2 and self.on_gpu else gradients
        masters = FP32 * (self.trained // num_ranks) if stage else 0
        return {"weights": working * held, "gradients": gradients, "masters": masters}

    def fit(
        self, args: TrainingArgs, num_ranks: int, limit: int, host_limit: float = float("inf")
    ) -> TrainingArgs | None:
        """The options nearest to `args` that need at most `limit` bytes of the device, and `host_limit` beside it.

        The ZeRO stage is raised first, as it costs communication only; then the micro-batch is lowered. Only when that
        is not enough, optimiser and then weights go to host memory.
        """
        share = args.batch_size // num_ranks
        counts = [count for count in range(args.micro_batch_size or share, 0, -1) if share % count == 0]
        largest = LARGEST_ZERO_STAGE.get(args.optimizer, 3) if args.sharding == "deepspeed" else 3
        stages = range(args.zero_stage, largest + 1)
        offloads = dict.fromkeys([args.offload, *(self._offloads(args) if self.on_gpu else ())])
        for offload in offloads:
            for count in counts:
                for stage in stages if num_ranks > 1 or offload else stages[:1]:
                    if offload and stage < (3 if offload == "all" else 1):
                        continue
                    micro = None if count == share else count
                    tried = replace(args, zero_stage=stage, micro_batch_size=micro, offload=offload)
                    plan = self.plan(tried, num_ranks)
                    if plan.device_total <= limit and plan.host_total <= host_limit:
                        return tried
        return None

    def _offloads(self, args: TrainingArgs) -> tuple[str, ...]:
        """What may be offloaded besides what is."""
        if args.optimizer not in ("adamw", "lion"):
            return ()
        return ("all",) if args.sharding == "fsdp2" or args.offload else ("optimizer", "all")

    def _activations(self, args: TrainingArgs, num_ranks: int, stage: int) -> int:
        """What the passes need at their peak beyond the gradients of the weights."""
        peak = max(self._peak(args.micro_batch_size or args.batch_size // num_ranks) - FP32 * self.trained, 0)
        if args.precision == "fp32":
            return peak
        # Autocast keeps a half-precision copy of each weight during a pass, where the weights are not bf16 anyway.
        copies = 0 if args.precision == "bf16" and stage else BF16 * self.trained
        return int(peak * AUTOCAST_FACTOR) + copies

    def _peak(self, count: int) -> int:
        """Bytes of a forward and backward pass over `count` samples, gradients included."""
        if count not in self._peaks:
            self._peaks[count] = peak_bytes(lambda: self.forward(count).backward())  # type: ignore[no-untyped-call]
            self.module.zero_grad(set_to_none=True)
        return self._peaks[count]
