"""Training fields for the optimiser: learning rate, clipping, averages, precision and sharding."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from emoji_ldm.config.base import Fraction, Positive, Section
from emoji_ldm.errors import ConfigError

# Muon and Adafactor need whole weights. Prodigy needs sums over all weights, and DeepSpeed's stage 3 calls an optimiser
# once per group of weights. All others work on any part of a weight.
LARGEST_ZERO_STAGE = {"muon": 0, "adafactor": 0, "prodigy": 2}
NEEDS_WHOLE_WEIGHTS = tuple(name for name, stage in LARGEST_ZERO_STAGE.items() if stage == 0)

Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerFields(Section):
    """Optimiser steps, shared by sections `train` and `autoencoder`."""

    # Section `autoencoder` inherits these fields and sets another name, which error messages show.
    section: ClassVar[str] = "train"

    steps: Positive = 20000
    """Optimiser steps."""
    batch_size: Positive = 64
    """Samples per step over all workers."""
    micro_batch_size: Positive | None = None
    """Samples per forward pass of a worker, whose gradients are accumulated over the step; null takes all at once."""
    optimizer: Literal["adamw", "adamw8bit", "adafactor", "lion", "prodigy", "muon"] = "adamw"
    """AdamW, the same with 8-bit moments (bitsandbytes), Adafactor, Lion, Prodigy (`lr` is a factor, 1), or Muon."""
    lr: Annotated[float, Field(gt=0)] = 1e-4
    """Peak learning rate."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Learning rate after the warm-up."""
    lr_end: Fraction = 0.1
    """Fraction of the peak learning rate at which linear and cosine end."""
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    """Steps of linear warm-up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay, multiplied by the learning rate."""
    adam_betas: tuple[Beta, Beta] = (0.9, 0.99)
    """Decay rates of the optimiser's averages; of the first and second moment for AdamW."""
    grad_clip: Annotated[float, Field(gt=0)] = 1.0
    """Gradient norm that gradients are clipped to."""
    # A single bad batch can undo hours of training, while skipping it costs one step.
    spike_factor: Annotated[float, Field(gt=0)] | None = 10
    """A step whose gradient norm exceeds the usual norm this many times is skipped; null skips only non-finite ones."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the moving average of the weights, warmed up as (1 + step) / (10 + step)."""
    # The mean of all steps, exponent 0, has the relative width 1 / sqrt(12) = 0.289, so larger widths make no sense.
    ema_widths: Annotated[tuple[Annotated[float, Field(gt=0, lt=0.29)], ...], Field(max_length=2)] = ()
    """Relative widths of power-function averages (arXiv 2312.02696) to keep instead, such as [0.05, 0.1]."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of forward and backward, fp16 with a loss scale (for T4, V100); master weights are fp32, and GPUs use
    TF32 for fp32 unless `deterministic`."""
    channels_last: bool = False
    """Use the NHWC memory layout, in which convolutions on GPUs are faster."""
    compile: bool = False
    """Compile the network with torch.compile; the first steps take minutes. Not at ZeRO stage 3, nor with `fsdp2`."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    deterministic: bool = False
    """Use only kernels that give the same bits each time, on GPUs without TF32 and without cudnn's search; slower."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """DeepSpeed ZeRO stage: 0 shards nothing, 1 the optimiser state, 2 also gradients, 3 also weights.

    With P weights on N workers in bf16 a worker holds 16P, 4P + 12P/N, 2P + 14P/N, 16P/N bytes, and 4P/N for each
    moving average (4P at stage 0). In fp32, stages 1 to 3 hold the working weights twice."""
    sharding: Literal["deepspeed", "fsdp2"] = "deepspeed"
    """What shards: DeepSpeed ZeRO, or torch's FSDP2, at `zero_stage` 3, or 2 to keep gathered weights for the backward
    pass. Checkpoints are the same, so a run may change over."""
    offload: Literal["optimizer", "all"] | None = None
    """What is kept in host memory: fp32 weights, moments and averages (ZeRO stages 1 to 3), or `all`, with the working
    weights (stage 3 or `fsdp2`); slower by the copies, and updates run on CPUs."""
    offload_folder: str | None = None
    """Folder on a local NVMe disk for the offloaded moments and averages; null keeps them in memory."""
    seed: int = 0
    """Seed of weights, data order, noise and caption dropout."""

    @model_validator(mode="after")
    def _refuse_conflicting_fields(self) -> Self:
        """Refuse fields that cannot be combined, before any work starts."""
        self._fit_sharding()
        if self.compile and self.sharding == "fsdp2":
            raise ConfigError(
                f"{self.section}.compile=true cannot be combined with {self.section}.sharding=fsdp2, which gathers "
                f"weights between the layers of the compiled graph; use sharding=deepspeed with zero_stage=2"
            )
        if self.compile and self.zero_stage == 3:
            raise ConfigError(
                f"{self.section}.compile=true cannot be combined with {self.section}.zero_stage=3, which swaps weights "
                f"in and out of the compiled graph; use {self.section}.zero_stage=2"
            )
        if self.lr_schedule == "constant":
            # A constant schedule ends at the peak, so 1 states the truth and is accepted.
            self._refuse_idle(self.section, ["lr_end"], f"with {self.section}.lr_schedule=constant", harmless=1)
        if self.ema_widths:
            self._refuse_idle(self.section, ["ema_decay"], f"with {self.section}.ema_widths, which is kept instead")
        if self.optimizer == "adafactor":
            self._refuse_idle(self.section, ["adam_betas"], f"with {self.section}.optimizer=adafactor")
        self._fit_optimizer()
        return self

    def _fit_sharding(self) -> None:
        """Let the default of the stage give way to what `sharding` and `offload` need; refuse other values."""
        name = self.section
        if self.offload_folder and not self.offload:
            raise ConfigError(f"{name}.offload_folder has no effect without {name}.offload; set offload=optimizer")
        if self.sharding == "fsdp2" and self.offload == "optimizer":
            raise ConfigError(
                f"{name}.offload=optimizer needs {name}.sharding=deepspeed; fsdp2 offloads all or nothing"
            )
        shards = "sharding=fsdp2" if self.sharding == "fsdp2" else f"offload={self.offload}" if self.offload else ""
        if not shards:
            return
        # 8-bit moments are updated by a kernel of the GPU, and Prodigy's sums are exchanged between GPUs.
        unfit = NEEDS_WHOLE_WEIGHTS + (("adamw8bit", "prodigy") if self.offload else ())
        needed = 2 if self.sharding == "fsdp2" else 3 if self.offload == "all" else 1
        if self.optimizer in unfit:
            raise ConfigError(
                f"{name}.{shards} cannot be combined with {name}.optimizer={self.optimizer}; use adamw or lion"
            )
        fitting = 3 if self.sharding == "fsdp2" else needed
        if self.zero_stage >= needed:
            return
        if "zero_stage" in self.model_fields_set:
            raise ConfigError(
                f"{name}.zero_stage={self.zero_stage} cannot be combined with {name}.{shards}; set "
                f"{name}.zero_stage={fitting}"
            )
        # The value is stored, so that a configuration that is written out reads back the same.
        object.__setattr__(self, "zero_stage", fitting)

    def _fit_optimizer(self) -> None:
        """Let the defaults of stage and learning rate give way to what the optimiser needs; refuse other values."""
        largest = self._largest_stage()
        if self.zero_stage > largest:
            if "zero_stage" in self.model_fields_set:
                raise ConfigError(
                    f"{self.section}.zero_stage={self.zero_stage} cannot shard {self.section}.optimizer="
                    f"{self.optimizer}; use {self.section}.zero_stage={largest}, or optimizer=adamw"
                )
            # The value is stored, so that a configuration that is written out reads back the same.
            object.__setattr__(self, "zero_stage", largest)
        if self.optimizer == "prodigy" and "lr" not in self.model_fields_set:
            object.__setattr__(self, "lr", 1.0)

    def _largest_stage(self) -> int:
        """The largest stage that the optimiser can be sharded at."""
        # FSDP2 calls an optimiser once per step, so that Prodigy's sums are over all weights.
        return 3 if self.sharding == "fsdp2" else LARGEST_ZERO_STAGE.get(self.optimizer, 3)
