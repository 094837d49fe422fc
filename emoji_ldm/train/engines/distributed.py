"""The ranks of one training: the collectives they use, and the settings of each rank's device.

Device settings are process-wide switches of torch, precision and memory layout.
"""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from emoji_ldm.errors import ConfigError, EmojiLdmError
from emoji_ldm.progress import print_status
from emoji_ldm.train.training_args import TrainingArgs

T = TypeVar("T")
COMPILERS = ("CXX", "c++", "g++", "clang++")


@dataclass(frozen=True)
class DistributedContext:
    """One process among its peers; with a world size of 1 no process group is needed.

    Every method is a collective: all ranks must call it, in the same order.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True on rank 0, which alone writes what exists once."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world_size > 1:
            dist.barrier()

    def broadcast(self, value: T | None) -> T:
        """Rank 0's value, on every rank; it must pickle."""
        box: list[T | None] = [value]
        if self.world_size > 1:
            # NCCL sends GPU memory only, so the pickled bytes pass through the rank's own device.
            dist.broadcast_object_list(box, src=0, device=self.device)
        # None stands for "not rank 0", so it cannot be a value.
        assert box[0] is not None, "rank 0 gives a value"
        return box[0]

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Every rank's tensor, `(world_size, *shape)`, on every rank; the shape is the same on all of them."""
        if self.world_size == 1:
            return tensor[None]
        rows = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(rows, tensor)
        return torch.stack(rows)

    def all_gather_objects(self, value: T) -> list[T]:
        """Every rank's value, rank 0 first, on every rank; it must pickle."""
        values: list[Any] = [value]
        if self.world_size > 1:
            values = [None] * self.world_size
            dist.all_gather_object(values, value)
        return values

    def run_on_all(self, function: Callable[[], T]) -> T:
        """What `function` returns on this rank; if it raises on any rank, every rank raises that error.

        An error on one rank alone would leave the others waiting in their next collective for ever.
        """
        value, error = None, None
        try:
            value = function()
        except Exception as raised:  # noqa: BLE001 (raised again below)
            error = _sendable(raised)
        # The exchange takes place without an error too, as no rank knows of the others' errors before it. All ranks
        # pick the same error, that of the lowest rank.
        if first := next((found for found in self.all_gather_objects(error) if found is not None), None):
            raise mark_raised_everywhere(first)
        return cast(T, value)

    def all_reduce_mean(self, tensor: Tensor) -> Tensor:
        """The elementwise mean over ranks; changes `tensor`."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
            # The mean is a sum and a division, since gloo has no operation for it.
            tensor /= self.world_size
        return tensor


def _sendable(error: Exception) -> Exception:
    """The error, or one with its text if it cannot be sent: this rank alone would fail, the others wait for ever."""
    try:
        # Some errors pickle, and fail when they are read: their class wants other arguments than it keeps.
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 (pickle raises whatever the error's own methods raise)
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def mark_raised_everywhere(error: BaseException) -> BaseException:
    """The error, marked as one that every rank raises."""
    if isinstance(error, EmojiLdmError):
        # A worker may return such an error as its result. Any other it has to raise, since its peers wait for it in a
        # collective: see `ray_jobs.execution.trainer`.
        error.raised_on_all_ranks = True
    return error


def current_context(device: torch.device | None = None) -> DistributedContext:
    """The context of the process group that this process belongs to, else one of world size 1."""
    # Ray Train joins the group before it calls the training; a plain process has none.
    joined = dist.is_available() and dist.is_initialized()
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if joined else (0, 1)
    return DistributedContext(rank, world_size, device or torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def configure_torch(args: TrainingArgs, ranks: DistributedContext) -> None:
    """Check that the options are available here, then set torch's process-wide switches.

    Rank 0 prints one line for each option that has no effect on this device or with so many workers.

    Raises:
        ConfigError: An option needs something that is missing.
    """
    # The check precedes all switches, so that a refused configuration leaves the process as it was.
    check_options(args, ranks.world_size)
    _check_offload(args)
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
    if (world_size > 1 or args.offload) and args.sharding == "deepspeed" and find_spec("deepspeed") is None:
        raise ConfigError(
            f"{section} with {world_size} workers needs DeepSpeed; install 'emoji-ldm[models]', "
            f"or use {section}.sharding=fsdp2"
        )
    if args.optimizer == "adamw8bit" and find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"{section}.optimizer=adamw8bit needs bitsandbytes; install 'emoji-ldm[adamw8bit]', or use adamw"
        )
    # Inductor compiles C++, and for a GPU the launchers of its kernels. Without a compiler it would fail in the first
    # step, when data and models have been loaded already.
    if args.compile and not any(shutil.which(os.environ.get(name, name)) for name in COMPILERS):
        raise ConfigError(f"{section}.compile needs a C++ compiler on each worker; install g++, or use compile=false")


def _check_offload(args: TrainingArgs) -> None:
    """Raise ConfigError unless this process can offload as it is asked to."""
    section = args.section
    if args.offload and not dist.is_initialized():
        raise ConfigError(f"{section}.offload needs a process group, which `emoji-ldm train` makes; use offload=null")
    if args.offload_folder and not os.access(args.offload_folder, os.W_OK):
        raise ConfigError(
            f"{section}.offload_folder={args.offload_folder} is no folder that can be written to on every worker"
        )


def ineffective_options(args: TrainingArgs, ranks: DistributedContext) -> list[str]:
    """One line for each option that has no effect here."""
    section, lines = args.section, []
    if args.channels_last and ranks.device.type == "cpu":
        lines.append(f"{section}.channels_last=true has no effect: a CPU's convolutions are no faster for it")
    if ranks.device.type == "cpu" and args.offload:
        lines.append(f"{section}.offload={args.offload} saves nothing: on CPUs all memory is the host's")
    if args.zero_stage > 1 and ranks.world_size == 1 and not args.offload:
        shards = "" if args.sharding == "deepspeed" else f" with sharding={args.sharding}"
        lines.append(f"{section}.zero_stage={args.zero_stage}{shards} has no effect: there is only one worker")
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
    module.compute_device = ranks.device  # type: ignore[assignment]  # offloaded weights lie elsewhere
    if args.precision != "fp32":
        _wrap_autocast(module, ranks.device.type, torch.bfloat16 if args.precision == "bf16" else torch.float16)
        if ranks.device.type == "cpu":
            use_plain_attention(module)
    if args.channels_last and ranks.device.type != "cpu":
        use_channels_last(module)


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes: batches and losses belong there."""
    found: torch.device | None = getattr(module, "compute_device", None)
    return found or next(module.parameters()).device


def use_plain_attention(module: nn.Module) -> None:
    """Let the networks of diffusers compute attention as two products and a softmax, instead of one fused operation.

    In bf16 on a CPU the fused operation, whose backward pass computes attention again, makes the whole training step a
    fifth slower (`python -m tests.bench cpu_precision`).
    """
    from diffusers.models.attention_processor import AttnProcessor

    for network in module.modules():
        # Only whole networks have this method; it reaches all of their attention layers.
        exchange: Callable[[Any], None] | None = getattr(network, "set_attn_processor", None)
        if exchange is not None:
            exchange(AttnProcessor())


def use_channels_last(module: nn.Module) -> None:
    """Give convolutions NHWC activations; weights keep the NCHW order of shards and checkpoints."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_pre_hook(_to_channels_last)


def _wrap_autocast(module: nn.Module, device_type: str, dtype: torch.dtype) -> None:
    """Run the module's forward under autocast to `dtype`, in which norms and softmax stay fp32.

    It wraps the method and not the call, because DeepSpeed switches autocast off around the module.
    """
    forward = module.forward

    def autocast_forward(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device_type, dtype):
            return forward(*args, **kwargs)

    setattr(module, "forward", autocast_forward)  # noqa: B010 (mypy does not allow assigning to a method)


def _to_channels_last(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    # cuDNN picks its NHWC kernels by the layout of the input, and their output is NHWC again: after the first layer
    # this copies nothing.
    return (inputs[0].contiguous(memory_format=torch.channels_last), *inputs[1:])
