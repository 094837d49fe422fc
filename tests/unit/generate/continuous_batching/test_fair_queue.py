"""The queue of waiting images: order within a tenant, fairness between tenants."""

from dataclasses import dataclass

from emoji_ldm.generate.continuous_batching.fair_queue import FairQueue


@dataclass(eq=False)
class Item:
    tenant: str
    steps: int = 10


def test_tenants_get_even_shares_of_the_steps_however_many_images_they_request():
    queue = FairQueue()
    for tenant, count in (("many", 20), ("few", 5)):
        for _ in range(count):
            queue.push(Item(tenant))
    first = [queue.pop().tenant for _ in range(10)]
    assert first.count("few") == 5
    assert (len(queue), queue.total_steps) == (15, 150)


def test_a_tenant_with_long_images_gets_fewer_of_them():
    queue = FairQueue()
    for tenant, steps in (("long", 50), ("short", 10)):
        for _ in range(10):
            queue.push(Item(tenant, steps))
    first = [queue.pop().tenant for _ in range(6)]
    assert first.count("long") == 1


def test_a_newcomer_neither_waits_for_the_backlog_of_others_nor_has_saved_up_credit():
    queue = FairQueue()
    for _ in range(10):
        queue.push(Item("first"))
    for _ in range(5):
        queue.pop()
    late = [Item("late") for _ in range(5)]
    for item in late:
        queue.push(item)
    served = [queue.pop().tenant for _ in range(4)]
    assert served.count("late") == 2


def test_a_tenant_that_asks_image_by_image_gets_no_more_than_its_share():
    queue = FairQueue()
    for _ in range(40):
        queue.push(Item("backlog"))
    queue.push(Item("one by one"))
    served = []
    for _ in range(40):
        served.append(queue.pop().tenant)
        if served[-1] == "one by one":
            queue.push(Item("one by one"))
    assert 19 <= served.count("one by one") <= 21


def test_tenants_that_are_gone_leave_nothing_behind():
    queue = FairQueue()
    queue.push(Item("stays", 1))
    for number in range(1000):
        queue.push(Item(f"tenant-{number}", 1))
        queue.push(Item("stays", 1))
        queue.pop()
        queue.pop()
    assert len(queue._served_steps) < 100
    while len(queue):
        queue.pop()
    assert not queue._served_steps


def test_items_of_a_tenant_keep_their_order_and_can_be_removed_once():
    queue, items = FairQueue(), [Item("a") for _ in range(3)]
    for item in items:
        queue.push(item)
    queue.remove(items[1])
    queue.remove(items[1])
    assert list(queue) == [items[0], items[2]] and queue.count("a") == 2
    assert [queue.pop(), queue.pop()] == [items[0], items[2]]
    assert not len(queue) and queue.total_steps == 0 == queue.count("a")


def test_the_steps_ahead_of_a_new_item_are_those_served_before_it():
    queue = FairQueue()
    for tenant, count in (("many", 20), ("few", 5)):
        for _ in range(count):
            queue.push(Item(tenant))
    # Five own items and six of the other tenant; a newcomer waits for one item of each tenant.
    assert queue.steps_ahead("few", 10) == 50 + 60 and queue.steps_ahead("new", 10) == 20
