"""What a training needs before it starts: memory of each rank by purpose, and the size of its checkpoints.

Weights, optimiser and averages follow from the number of parameters and from how ZeRO shards them (arXiv 1910.02054).
The peak of a forward and backward pass is found by running both on tensors without values, which has the shapes and the
lifetimes of the real ones and takes no memory. Allocators and kernels need a few per cent more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, nn

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
        # A single process has nothing to shard.
        stage = args.zero_stage if num_ranks > 1 else 0
        half = args.precision == "bf16"
        averages = len(args.ema_widths) or int(args.ema_decay > 0)
        # DeepSpeed's sharded stages compute with bf16 copies of the fp32 masters; all else with the masters themselves.
        working = BF16 if half and stage else FP32
        shard = self.trained // (num_ranks if stage else 1)
        weights = working * (self.trained // (num_ranks if stage == 3 else 1)) + FP32 * self.frozen
        gradients = working * (self.trained // (num_ranks if stage >= 2 else 1))
        state = STATE_VALUES[args.optimizer]
        device = {
            "weights": weights + (FP32 * shard if stage else 0), "gradients": gradients,
            "optimiser": int(FP32 * state * shard), "averages": FP32 * averages * shard,
            "activations": self._activations(args, num_ranks, half=half, stage=stage),
        }  # fmt: skip
        # Values are saved in fp32 whatever the precision; each rank writes an equal share of them.
        saved = int(FP32 * self.trained * (1 + state + averages))
        model = FP32 * (self.trained + self.frozen)
        # Rank 0 puts the average together from the shards, and beside it the whole model for the export.
        host = {"copy for saving": saved // num_ranks, "export (rank 0)": FP32 * self.trained + model}
        if not self.on_gpu:
            device["copy for saving"] = host.pop("copy for saving")
        return MemoryPlan(device, host, saved + model)

    def fit(self, args: TrainingArgs, num_ranks: int, limit: int) -> TrainingArgs | None:
        """The options nearest to `args` whose device memory is within `limit` bytes; None if none are.

        The ZeRO stage is raised first, as it costs communication only; then the micro-batch is lowered.
        """
        share = args.batch_size // num_ranks
        counts = [count for count in range(args.micro_batch_size or share, 0, -1) if share % count == 0]
        for count in counts:
            for stage in range(args.zero_stage, 4) if num_ranks > 1 else (args.zero_stage,):
                tried = replace(args, zero_stage=stage, micro_batch_size=None if count == share else count)
                if self.plan(tried, num_ranks).device_total <= limit:
                    return tried
        return None

    def _activations(self, args: TrainingArgs, num_ranks: int, *, half: bool, stage: int) -> int:
        """What the passes need at their peak beyond the gradients of the weights."""
        peak = self._peak(args.micro_batch_size or args.batch_size // num_ranks) - FP32 * self.trained
        # Autocast keeps a bf16 copy of each weight during a pass, where the weights are not bf16 anyway.
        return int(max(peak, 0) * AUTOCAST_FACTOR) + BF16 * self.trained * (not stage) if half else max(peak, 0)

    def _peak(self, count: int) -> int:
        """Bytes of a forward and backward pass over `count` samples, gradients included."""
        if count not in self._peaks:
            self._peaks[count] = peak_bytes(lambda: self.forward(count).backward())  # type: ignore[no-untyped-call]
            self.module.zero_grad(set_to_none=True)
        return self._peaks[count]
