"""A queue that is fair between tenants: whoever was given the fewest steps so far is next."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, Protocol, TypeVar


class QueuedItem(Hashable, Protocol):
    """What waits."""

    tenant: str
    steps: int


ItemT = TypeVar("ItemT", bound=QueuedItem)


class FairQueue(Generic[ItemT]):
    """Items of each tenant in the order of their arrival; steps are shared evenly between the tenants that wait."""

    def __init__(self) -> None:
        self._items: dict[str, OrderedDict[ItemT, None]] = {}  # of tenants that wait
        self._steps: Counter[str] = Counter()  # that their items take
        self._given: dict[str, int] = {}  # steps of items that they were given since they began to wait
        self._floor = 0  # what the tenant served last had been given before: newcomers begin there

    def __len__(self) -> int:
        """Items that wait."""
        return sum(map(len, self._items.values()))

    def __iter__(self) -> Iterator[ItemT]:
        """All items, tenant by tenant."""
        return (item for items in self._items.values() for item in items)

    @property
    def steps(self) -> int:
        """Steps of all items."""
        return self._steps.total()

    def push(self, item: ItemT) -> None:
        """Let an item wait."""
        if item.tenant not in self._items:
            self._items[item.tenant], self._given[item.tenant] = OrderedDict(), self._floor
        self._items[item.tenant][item] = None
        self._steps[item.tenant] += item.steps

    def pop(self) -> ItemT:
        """Take out the next item."""
        tenant = min(self._items, key=self._given.__getitem__)
        self._floor = self._given[tenant]
        item = next(iter(self._items[tenant]))
        self._given[tenant] += item.steps
        self.remove(item)
        return item

    def remove(self, item: ItemT) -> None:
        """Take out an item, if it is there."""
        items = self._items.get(item.tenant, OrderedDict())
        if item in items:
            del items[item]
            self._steps[item.tenant] -= item.steps
        if not items:
            for known in (self._items, self._steps, self._given):
                known.pop(item.tenant, None)

    def count(self, tenant: str) -> int:
        """Items of a tenant."""
        return len(self._items.get(tenant, ()))

    def ahead(self, tenant: str, steps: int) -> int:
        """Steps of items that a new one of `steps` would wait for."""
        own = self._steps.get(tenant, 0)
        turn = self._given.get(tenant, self._floor) + own + steps
        others = (min(waiting, max(0, turn - self._given[name])) for name, waiting in self._steps.items()
                  if name != tenant)  # fmt: skip
        return own + sum(others)
