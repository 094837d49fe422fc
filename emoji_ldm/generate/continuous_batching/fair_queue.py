"""The queue that shares steps evenly between tenants: start-time fair queueing (Goyal, Vin & Cheng, 1996).

Each tenant has a counter of the steps that it was given, the tenant with the smallest counter is served next, and a
tenant that starts to wait begins at the current virtual time, or at its own counter where that is ahead. So an idle
tenant cannot save up credit, one that asks image by image cannot shed what it was given, and nobody's backlog delays
the others by more than their fair share.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, Protocol, TypeVar

MAX_ABSENT_TENANTS = 64  # whose counters are kept without a look whether they still matter


class QueuedItem(Hashable, Protocol):
    """An item of the queue."""

    tenant: str
    steps: int


ItemT = TypeVar("ItemT", bound=QueuedItem)


class FairQueue(Generic[ItemT]):
    """Items in order of arrival within a tenant, and fair between tenants; not thread-safe."""

    def __init__(self) -> None:
        # The first two hold entries for waiting tenants only, and the third forgets those that the virtual time has
        # passed, so that memory does not grow with the number of tenants ever seen.
        # An ordered dict serves as a queue from whose middle a cancelled item can be removed in constant time.
        self._items: dict[str, OrderedDict[ItemT, None]] = {}
        self._steps: Counter[str] = Counter()  # steps of the tenant's waiting items
        self._served_steps: dict[str, int] = {}  # steps served to the tenant, plus the virtual time when it arrived
        self._virtual_time = 0  # what the tenant that was served last had been given before

    def __len__(self) -> int:
        """Number of items."""
        return sum(map(len, self._items.values()))

    def __iter__(self) -> Iterator[ItemT]:
        """All items, tenant by tenant."""
        return (item for items in self._items.values() for item in items)

    @property
    def total_steps(self) -> int:
        """Steps of all items."""
        return self._steps.total()

    def push(self, item: ItemT) -> None:
        """Add an item."""
        if item.tenant not in self._items:
            self._items[item.tenant], self._served_steps[item.tenant] = OrderedDict(), self._start_of(item.tenant)
        self._items[item.tenant][item] = None
        self._steps[item.tenant] += item.steps

    def pop(self) -> ItemT:
        """Remove and return the next item."""
        tenant = min(self._items, key=self._served_steps.__getitem__)
        # Newcomers start level with the tenant that is served now, not at zero: no credit for having been idle.
        self._virtual_time = self._served_steps[tenant]
        item = next(iter(self._items[tenant]))
        self._served_steps[tenant] += item.steps
        self.remove(item)
        self._forget_passed()
        return item

    def remove(self, item: ItemT) -> None:
        """Remove an item, if it is in the queue."""
        items = self._items.get(item.tenant, OrderedDict())
        if item in items:
            del items[item]
            self._steps[item.tenant] -= item.steps
        if not items:
            # What the tenant was served stays: it may come back at once, with its next image.
            for by_tenant in (self._items, self._steps):
                by_tenant.pop(item.tenant, None)

    def count(self, tenant: str) -> int:
        """Number of items of a tenant."""
        return len(self._items.get(tenant, ()))

    def steps_ahead(self, tenant: str, steps: int) -> int:
        """Steps that would be served before a new item of `steps` is complete, its own not counted."""
        own = self._steps.get(tenant, 0)
        # The item is served when this tenant's counter is the smallest; until then others catch up to that value.
        finish = self._start_of(tenant) + own + steps
        others = (min(waiting, max(0, finish - self._served_steps[name])) for name, waiting in self._steps.items()
                  if name != tenant)  # fmt: skip
        return own + sum(others)

    def _start_of(self, tenant: str) -> int:
        """Where a tenant's counter stands, or would start: never behind the virtual time (no credit for idleness)."""
        served = self._served_steps.get(tenant, self._virtual_time)
        return served if tenant in self._items else max(served, self._virtual_time)

    def _forget_passed(self) -> None:
        """Forget absent tenants that would start at the virtual time anyway; all of them once nobody waits."""
        # Looked for only when they are the majority, so that a pop takes constant time on average.
        if not self._items:
            self._served_steps.clear()
        elif len(self._served_steps) > 2 * len(self._items) + MAX_ABSENT_TENANTS:
            self._served_steps = {tenant: served for tenant, served in self._served_steps.items()
                                  if tenant in self._items or served > self._virtual_time}  # fmt: skip
