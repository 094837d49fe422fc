"""What a training asks of its device: process-wide switches, precision, memory layout."""

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


def configure_torch(plan: TrainingArgs, world: DistributedContext) -> None:
    """Check that the plan's options can be had here, then set torch's switches for this process.

    Options that this device or this many workers leave without effect are told in a line each, by rank 0.

    Raises:
        ConfigError: An option needs something that is missing.
    """
    check_options(plan, world.size)
    for line in ineffective_options(plan, world) if world.leads else []:
        print_status(line)
    if plan.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS wants it, or torch refuses
    torch.use_deterministic_algorithms(plan.deterministic)
    # It costs time, and no kernel here reads memory that nobody wrote.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if world.device.type == "cuda":
        torch.set_float32_matmul_precision("highest" if plan.deterministic else "high")
        torch.backends.cudnn.allow_tf32 = not plan.deterministic
        torch.backends.cudnn.benchmark = not plan.deterministic  # shapes never change


def check_options(plan: TrainingArgs, size: int = 1) -> None:
    """ConfigError if an option, or so many workers, need something that is missing."""
    section = plan.section
    if size > 1 and find_spec("deepspeed") is None:
        raise ConfigError(
            f"{section} with {size} workers needs DeepSpeed; install 'emoji-ldm[models]', "
            f"or use {section}.num_workers=1"
        )
    if plan.optimizer == "adamw8bit" and find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"{section}.optimizer=adamw8bit needs bitsandbytes; install 'emoji-ldm[adamw8bit]', or use adamw"
        )
    if plan.compile and not any(shutil.which(os.environ.get(name, name)) for name in COMPILERS):
        raise ConfigError(f"{section}.compile needs a C++ compiler on each worker; install g++, or use compile=false")


def ineffective_options(plan: TrainingArgs, world: DistributedContext) -> list[str]:
    """What is asked for and will not come, a line each."""
    section, lines = plan.section, []
    if plan.channels_last and world.device.type == "cpu":
        lines.append(f"{section}.channels_last=true has no effect: a CPU's convolutions are no faster for it")
    if plan.zero_stage > 1 and world.size == 1:
        lines.append(f"{section}.zero_stage={plan.zero_stage} has no effect: one worker has nobody to share with")
    if plan.zero_stage == 1 and world.size > 1 and plan.precision == "bf16" and num_micro_batches(plan, world.size) > 1:
        lines.append(
            f"{section}.micro_batch_size with zero_stage=1 adds gradients up in bf16; zero_stage=2 does it in fp32"
        )
    if plan.deterministic and plan.optimizer == "adamw8bit":
        lines.append(
            f"{section}.deterministic=true holds for a run that is not cut off: a resume rounds the scales of "
            "adamw8bit's moments; optimizer=adamw goes on bit by bit"
        )
    return lines


def num_micro_batches(plan: TrainingArgs, size: int) -> int:
    """Micro-batches of a rank's step, with `size` ranks."""
    share = plan.batch_size // size
    return share // (plan.micro_batch_size or share)


def prepare_module(module: nn.Module, plan: TrainingArgs, world: DistributedContext) -> None:
    """Bring the module to the device, in the plan's precision and memory layout."""
    module.to(world.device)
    if plan.precision == "bf16":
        _wrap_autocast(module, world.device.type)
    if plan.channels_last and world.device.type != "cpu":
        use_channels_last(module)


def use_channels_last(module: nn.Module) -> None:
    """Give convolutions NHWC activations; weights keep their order, in which shards and checkpoints hold them."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_pre_hook(_to_channels_last)


def _wrap_autocast(module: nn.Module, device_type: str) -> None:
    """Inside the module, for DeepSpeed switches off autocast around it; norms and softmax stay fp32 that way."""
    forward = module.forward

    def lowered(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device_type, torch.bfloat16):
            return forward(*args, **kwargs)

    setattr(module, "forward", lowered)  # noqa: B010 (mypy knows no assignable methods)


def _to_channels_last(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0].contiguous(memory_format=torch.channels_last), *inputs[1:])
