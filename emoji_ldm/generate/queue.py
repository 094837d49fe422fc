"""A queue that is fair between tenants: whoever was given the fewest steps so far is next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Item(Protocol):
    """What waits."""

    tenant: str
    steps: int


T = TypeVar("T", bound=Item)


class FairQueue(Generic[T]):
    """Items of each tenant in the order of their arrival; steps are shared evenly between the tenants that wait."""

    def __init__(self) -> None:
        self._items: dict[str, deque[T]] = {}  # of tenants that wait
        self._given: dict[str, float] = {}  # steps given to them since they began to wait
        self._floor = 0.0  # what the one who was served last had been given: where newcomers begin
        self.steps = 0

    def __len__(self) -> int:
        """Items that wait."""
        return sum(map(len, self._items.values()))

    def __iter__(self) -> Iterator[T]:
        """All items, tenant by tenant."""
        return (item for items in self._items.values() for item in items)

    def push(self, item: T) -> None:
        """Let an item wait."""
        if item.tenant not in self._items:
            self._items[item.tenant], self._given[item.tenant] = deque(), self._floor
        self._items[item.tenant].append(item)
        self.steps += item.steps

    def pop(self) -> T:
        """Take out the next item."""
        tenant = min(self._items, key=self._given.__getitem__)
        item = self._items[tenant].popleft()
        self._floor = self._given[tenant]
        self._given[tenant] += item.steps
        self.steps -= item.steps
        self._forget_idle(tenant)
        return item

    def remove(self, item: T) -> None:
        """Take out an item, if it is there."""
        if item in self._items.get(item.tenant, ()):
            self._items[item.tenant].remove(item)
            self.steps -= item.steps
            self._forget_idle(item.tenant)

    def count(self, tenant: str) -> int:
        """Items of a tenant."""
        return len(self._items.get(tenant, ()))

    def ahead(self, tenant: str, steps: int) -> int:
        """Steps of items that an item of `steps` would wait for."""
        own = sum(item.steps for item in self._items.get(tenant, ()))
        others = (sum(item.steps for item in items) for name, items in self._items.items() if name != tenant)
        return own + sum(min(waiting, own + steps) for waiting in others)

    def _forget_idle(self, tenant: str) -> None:
        if not self._items[tenant]:
            del self._items[tenant], self._given[tenant]
