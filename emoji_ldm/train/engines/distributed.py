"""The ranks of one training: who I am, and the few words they exchange."""

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
    """One process among its peers; a world of one needs no process group."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """True on rank 0, which alone writes what exists once."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            dist.barrier()

    def share(self, value: T | None) -> T:
        """Rank 0's value, on every rank; it must pickle."""
        box: list[T | None] = [value]
        if self.size > 1:
            dist.broadcast_object_list(box, src=0, device=self.device)
        assert box[0] is not None, "rank 0 gives a value"
        return box[0]

    def gather(self, tensor: Tensor) -> Tensor:
        """Every rank's tensor, `(size, *shape)`, on every rank; all give the same shape."""
        if self.size == 1:
            return tensor[None]
        rows = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(rows, tensor)
        return torch.stack(rows)

    def all(self, value: T) -> list[T]:
        """Every rank's value, rank 0 first, on every rank; it must pickle."""
        values: list[Any] = [value]
        if self.size > 1:
            values = [None] * self.size
            dist.all_gather_object(values, value)
        return values

    def agree(self, act: Callable[[], T]) -> T:
        """What `act` returns; if it raises on any rank, every rank raises that error, so that none waits for ever."""
        value, error = None, None
        try:
            value = act()
        except Exception as raised:  # noqa: BLE001 (raised again below)
            error = raised
        if first := next((found for found in self.all(error) if found is not None), None):
            raise mark_raised_everywhere(first)
        return cast(T, value)

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over ranks, elementwise; changes `tensor`."""
        if self.size > 1:
            dist.all_reduce(tensor)
            tensor /= self.size
        return tensor


def mark_raised_everywhere(error: BaseException) -> BaseException:
    """The error, marked as one that every rank raises."""
    if isinstance(error, EmojiLdmError):
        error.everywhere = True
    return error


def current_context(device: torch.device | None = None) -> DistributedContext:
    """The world of the process group that is there, else a world of one."""
    joined = dist.is_available() and dist.is_initialized()
    rank, size = (dist.get_rank(), dist.get_world_size()) if joined else (0, 1)
    return DistributedContext(rank, size, device or torch.device("cuda" if torch.cuda.is_available() else "cpu"))
