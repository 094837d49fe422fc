"""The ranks of one training, and the collectives they use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from emoji_ldm.errors import EmojiLdmError

T = TypeVar("T")


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
            error = raised
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
