"""Device settings of a training: process-wide switches of torch, precision, memory layout."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from emoji_ldm.errors import ConfigError
from emoji_ldm.progress import print_status
from emoji_ldm.train.engines.distributed import DistributedContext
from emoji_ldm.train.training_args import TrainingArgs

COMPILERS = ("CXX", "c++", "g++", "clang++")


def configure_torch(args: TrainingArgs, ranks: DistributedContext) -> None:
    """Check that the options are available here, then set torch's process-wide switches.

    Rank 0 prints one line for each option that has no effect on this device or with so many workers.

    Raises:
        ConfigError: An option needs something that is missing.
    """
    # The check precedes all switches, so that a refused configuration leaves the process as it was.
    check_options(args, ranks.world_size)
    for line in ineffective_options(args, ranks) if ranks.is_main else []:
        print_status(line)
    if args.deterministic:
        # Without it torch refuses to call cuBLAS in deterministic mode.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(args.deterministic)
    # Filling costs time, and no kernel here reads uninitialised memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if ranks.device.type == "cuda":
        # TF32 has 10 bits of mantissa instead of 23, and is several times as fast.
        torch.set_float32_matmul_precision("highest" if args.deterministic else "high")
        torch.backends.cudnn.allow_tf32 = not args.deterministic
        # All batches have one shape, so the search for the fastest kernel pays: it runs once. Its outcome may differ
        # between runs, and with it the rounding.
        torch.backends.cudnn.benchmark = not args.deterministic


def check_options(args: TrainingArgs, world_size: int = 1) -> None:
    """Raise ConfigError if an option, or so many workers, need something that is not installed."""
    section = args.section
    if world_size > 1 and find_spec("deepspeed") is None:
        raise ConfigError(
            f"{section} with {world_size} workers needs DeepSpeed; install 'emoji-ldm[models]', "
            f"or use {section}.num_workers=1"
        )
    if args.optimizer == "adamw8bit" and find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"{section}.optimizer=adamw8bit needs bitsandbytes; install 'emoji-ldm[adamw8bit]', or use adamw"
        )
    # Inductor compiles C++, and for a GPU the launchers of its kernels. Without a compiler it would fail in the first
    # step, when data and models have been loaded already.
    if args.compile and not any(shutil.which(os.environ.get(name, name)) for name in COMPILERS):
        raise ConfigError(f"{section}.compile needs a C++ compiler on each worker; install g++, or use compile=false")


def ineffective_options(args: TrainingArgs, ranks: DistributedContext) -> list[str]:
    """One line for each option that has no effect here."""
    section, lines = args.section, []
    if args.channels_last and ranks.device.type == "cpu":
        lines.append(f"{section}.channels_last=true has no effect: a CPU's convolutions are no faster for it")
    if args.zero_stage > 1 and ranks.world_size == 1:
        lines.append(f"{section}.zero_stage={args.zero_stage} has no effect: there is only one worker")
    if (
        args.zero_stage == 1
        and ranks.world_size > 1
        and args.precision == "bf16"
        and num_micro_batches(args, ranks.world_size) > 1
    ):
        lines.append(
            f"{section}.micro_batch_size with zero_stage=1 adds gradients up in bf16; use zero_stage=2 for fp32"
        )
    if args.deterministic and args.optimizer == "adamw8bit":
        lines.append(
            f"{section}.deterministic=true covers uninterrupted runs only: a resume rounds the scales of adamw8bit's "
            "moments; optimizer=adamw resumes bit by bit"
        )
    return lines


def num_micro_batches(args: TrainingArgs, world_size: int) -> int:
    """Number of micro-batches of a rank's step."""
    # `split_micro_batches` has refused batches that do not divide evenly.
    share = args.batch_size // world_size
    return share // (args.micro_batch_size or share)


def prepare_module(module: nn.Module, args: TrainingArgs, ranks: DistributedContext) -> None:
    """Move the module to the device, with the configured precision and memory layout."""
    # The module is moved before the optimiser is built, which keeps references to its parameters.
    module.to(ranks.device)
    if args.precision == "bf16":
        _wrap_autocast(module, ranks.device.type)
    if args.channels_last and ranks.device.type != "cpu":
        use_channels_last(module)


def use_channels_last(module: nn.Module) -> None:
    """Give convolutions NHWC activations; weights keep the NCHW order of shards and checkpoints."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_pre_hook(_to_channels_last)


def _wrap_autocast(module: nn.Module, device_type: str) -> None:
    """Run the module's forward under bf16 autocast, in which norms and softmax stay fp32.

    It wraps the method and not the call, because DeepSpeed switches autocast off around the module.
    """
    forward = module.forward

    def forward_in_bf16(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device_type, torch.bfloat16):
            return forward(*args, **kwargs)

    setattr(module, "forward", forward_in_bf16)  # noqa: B010 (mypy does not allow assigning to a method)


def _to_channels_last(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    # cuDNN picks its NHWC kernels by the layout of the input, and their output is NHWC again: after the first layer
    # this copies nothing.
    return (inputs[0].contiguous(memory_format=torch.channels_last), *inputs[1:])
