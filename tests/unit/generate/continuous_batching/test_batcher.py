"""The batcher: every ticket ends exactly once, and no one is hurt by what becomes of the others."""

import copy
import math
import random
import threading
import time
import weakref
from concurrent.futures import CancelledError
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.generate import warmup
from emoji_ldm.generate.continuous_batching.admission_control import DeadlineExceeded, QueueFull, predict_wait_s
from emoji_ldm.generate.continuous_batching.batch_scheduler import BatchBucket, BatchScheduler, PendingImage
from emoji_ldm.generate.continuous_batching.batcher import ContinuousBatcher
from emoji_ldm.generate.continuous_batching.batcher_state import BatcherClosed, BatcherState
from emoji_ldm.generate.continuous_batching.fair_queue import FairQueue
from emoji_ldm.generate.offline_sampler import OfflineSampler
from emoji_ldm.generate.pipeline_loader import load_model
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.generate.warmup import LatencyProfile, LoadedModel, efficient_batch_size
from tests.generation_requests import mixed_requests
from tests.tiny_pipelines import write_pipeline

pytestmark = pytest.mark.slow

WAIT_S = 60


def finish(pixels, draw, model):
    return pixels.tobytes()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(write_pipeline(tmp_path_factory.mktemp("small") / "pipeline", size_px=16), "cpu")


@pytest.fixture(scope="module")
def alone(model):
    """What each draw of the pool gives, drawn offline."""
    sampler = OfflineSampler(model, 4)
    return {draw: pixels.tobytes() for draw, pixels in zip(mixed_requests(), sampler(mixed_requests()), strict=True)}


@pytest.fixture(scope="module")
def shared(model):
    batcher = ContinuousBatcher(model, batch_size=4, strict=True, max_queued=1000, finish=finish)
    yield batcher
    batcher.close()


@pytest.fixture
def make(model):
    made = []

    def make(**options):
        options = {"batch_size": 4, "strict": True, "max_queued": 1000, "finish": finish, **options}
        made.append(ContinuousBatcher(model, **options))
        return made[-1]

    yield make
    for batcher in made:
        batcher.close()


def nobody_left(batcher):
    """Wait until the batcher is idle; whether that came."""
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        stats = batcher.stats()
        gauges = [*stats.queued.values(), *stats.running.values(), *stats.row_steps.values(), stats.finishing]
        if not any(gauges) and not batcher._floor.live:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("strict", [True, False])
def test_pictures_ordered_at_random_moments_are_those_drawn_offline(make, alone, strict):
    batcher, chance = make(strict=strict), random.Random(0)
    for _ in range(3):
        tickets = {}
        for draw in chance.sample(mixed_requests(), 8):
            tickets[draw] = batcher.submit(draw, tenant=chance.choice("ab"), bulk=chance.random() < 0.5)
            time.sleep(chance.choice((0, 0.01)))
        drawn = {draw: ticket.future.result(WAIT_S) for draw, ticket in tickets.items()}
        if strict:
            assert drawn == {draw: alone[draw] for draw in drawn}


@pytest.mark.parametrize("count", [20, pytest.param(100, marks=pytest.mark.long)])
def test_hundreds_of_cancels_leak_nothing_and_leave_the_neighbours_untouched(shared, alone, count):
    chance, kept, given_up = random.Random(1), {}, []
    before = shared.stats().cancelled
    for draw in chance.sample(mixed_requests(), 10):
        kept[draw] = shared.submit(draw)
        tickets = [shared.submit(chance.choice(mixed_requests()), bulk=chance.random() < 0.5) for _ in range(count)]
        chance.shuffle(tickets)
        for ticket in tickets:
            if chance.random() < 0.05:
                time.sleep(0.005)
            ticket.cancel()
            ticket.cancel()
        given_up += tickets
    assert {draw: ticket.future.result(WAIT_S) for draw, ticket in kept.items()} == {d: alone[d] for d in kept}
    assert nobody_left(shared)
    assert all(ticket.future.done() for ticket in given_up)
    cancelled = sum(ticket.future.cancelled() for ticket in given_up)
    assert shared.stats().cancelled - before == cancelled > 8 * count


def test_a_cancelled_row_is_gone_within_two_ticks(shared):
    ticket = shared.submit(GenerationRequest("a cat", steps=500))
    while not ticket.row or not ticket.row.index:
        time.sleep(0.001)
    ticket.cancel()
    index = ticket.row.index
    assert nobody_left(shared)
    assert ticket.row.index - index <= 2
    with pytest.raises(CancelledError):
        ticket.future.result()


def test_every_ticket_ends_exactly_once_whatever_happens(make):
    batcher, chance = make(max_queued=12), random.Random(2)
    ends, tickets, refused = {}, [], 0
    counted = threading.Lock()

    def ended(ticket):
        with counted:
            ends[ticket] = ends.get(ticket, 0) + 1

    broken = GenerationRequest("a cat", image=b"no picture", strength=0.5)
    for _ in range(60):
        draw = broken if chance.random() < 0.1 else chance.choice(mixed_requests())
        try:
            ticket = batcher.submit(draw, bulk=chance.random() < 0.4, tenant=chance.choice(["", "a", "b"]),
                                    timeout_s=chance.choice([0.0, 0.05, 5.0, math.inf]), partials=1,
                                    on_partial=lambda index, png: None)  # fmt: skip
        except (QueueFull, DeadlineExceeded) as refusal:
            assert isinstance(refusal, DeadlineExceeded) or refusal.retry_after_s >= 1
            refused += 1
            continue
        ticket.future.add_done_callback(lambda _, ticket=ticket: ended(ticket))
        tickets.append(ticket)
        if chance.random() < 0.2:
            chance.choice(tickets).cancel()
        time.sleep(chance.choice((0, 0, 0.02)))
    batcher.close(drain_s=WAIT_S)
    stats = batcher.stats()
    assert set(ends) == set(tickets) and set(ends.values()) == {1}
    assert stats.drawn + stats.cancelled + stats.expired + stats.failed == len(tickets)
    assert stats.refused == refused and stats.drawn and stats.failed
    with pytest.raises(BatcherClosed):
        batcher.submit(GenerationRequest("a cat"))


def test_a_picture_that_cannot_be_made_fails_alone(shared, alone):
    good, bad = mixed_requests()[0], GenerationRequest("a cat", image=b"no picture", strength=0.5)
    tickets = [shared.submit(draw) for draw in (good, bad, good)]
    assert tickets[0].future.result(WAIT_S) == tickets[2].future.result(WAIT_S) == alone[good]
    with pytest.raises(ConfigError, match="image cannot be read"):
        tickets[1].future.result(WAIT_S)
    with pytest.raises(ConfigError, match="lora=nobody is unknown; there are none"):
        shared.submit(GenerationRequest("a cat", lora="nobody"))


def test_a_picture_whose_time_is_over_ends_while_it_waits_and_while_it_runs(make):
    batcher = make()
    ticket = batcher.submit(GenerationRequest("a cat", steps=900), timeout_s=0.2)
    with pytest.raises(DeadlineExceeded):
        ticket.future.result(WAIT_S)
    assert nobody_left(batcher) and batcher.stats().expired == 1


def test_too_many_that_wait_and_too_short_deadlines_are_refused_at_once(make):
    batcher = make(max_queued=8)
    for _ in range(100):  # more than wait, run or are prepared at once
        try:
            batcher.submit(GenerationRequest("a cat", steps=500))
        except QueueFull as full:
            assert full.retry_after_s >= 1
            break
    else:
        pytest.fail("nothing was refused")
    with pytest.raises(DeadlineExceeded, match="500 steps of this size take longer"):
        batcher.submit(GenerationRequest("a cat", steps=500), timeout_s=0.001)
    batcher.submit(GenerationRequest("a cat", steps=500), bulk=True)  # the other class has a queue of its own


def test_previews_come_in_order_before_the_picture(shared, alone):
    draw, seen = mixed_requests()[4], []
    ticket = shared.submit(draw, partials=2, on_partial=lambda index, png: seen.append((index, png)))
    assert ticket.future.result(WAIT_S) == alone[draw]
    assert [index for index, _ in seen] == list(range(len(seen))) and seen
    assert all(png != alone[draw] for _, png in seen)


def test_new_weights_draw_what_is_ordered_after_them(make, model):
    other = replace(model, unet=copy.deepcopy(model.unet), key="other")
    other.unet.conv_out.weight *= 2
    batcher, draw = make(), GenerationRequest("a cat", steps=4)
    before = [batcher.submit(draw) for _ in range(3)]
    batcher.swap(other)
    after = batcher.submit(draw)
    assert {ticket.future.result(WAIT_S) for ticket in before} == {OfflineSampler(model, 4)([draw])[0].tobytes()}
    assert after.future.result(WAIT_S) == OfflineSampler(other, 4)([draw])[0].tobytes()
    assert batcher.bounds().model_key == other.key


def test_a_thread_that_dies_fails_everybody_and_is_told(make):
    batcher = make()
    batcher.check()

    def broken(rows):
        raise RuntimeError("out of memory")

    tickets = [batcher.submit(GenerationRequest("a cat", steps=50)) for _ in range(9)]
    tickets[0].lane.cast.engine.tick = broken
    for ticket in tickets:
        with pytest.raises(BatcherClosed, match="out of memory"):
            ticket.future.result(WAIT_S)
    with pytest.raises(RuntimeError, match="out of memory"):
        batcher.check()


def test_closing_lets_what_is_there_be_drawn_or_fails_it(make, alone):
    draw, batcher = mixed_requests()[0], make()
    ticket = batcher.submit(draw)
    batcher.close(drain_s=WAIT_S)
    assert ticket.future.result(0) == alone[draw]
    batcher = make()
    ticket = batcher.submit(GenerationRequest("a cat", steps=900))
    batcher.close()
    with pytest.raises(BatcherClosed):
        ticket.future.result(0)


def test_what_needs_more_memory_than_there_is_fails_alone_and_fewer_move_from_then_on(make, alone):
    batcher, draw = make(), mixed_requests()[0]
    engine = batcher._casts[""].engine
    tick, wide = engine.tick, GenerationRequest("a cat", steps=4, width_px=32)

    def small(rows):
        if len(rows) > 1 and rows[0].x.shape[-1] > 8:
            raise torch.OutOfMemoryError
        return tick(rows)

    engine.tick = small
    tickets = [batcher.submit(wide) for _ in range(8)]
    neighbour = batcher.submit(draw)
    failed = [ticket for ticket in tickets if ticket.future.exception(WAIT_S)]
    assert len(failed) <= 2 and all(isinstance(ticket.future.exception(), ModelError) for ticket in failed)
    assert neighbour.future.result(WAIT_S) == alone[draw]
    batcher.check()


def test_new_weights_of_the_same_form_are_not_measured_again(make, model, monkeypatch):
    calls = []
    monkeypatch.setattr(warmup, "_tick_s", lambda engine, stages, size, way: calls.append(size) or 0.1 * size)
    batcher = make()
    assert sorted(calls) == [2] * 3 + [4] * 3  # strict passes have two shapes: 4 rows, and twice 4 rows
    before = batcher._casts[""]
    batcher.swap(model)
    after = batcher._casts[""]
    assert len(calls) == 6 and after.engine is not before.engine
    assert after.cap == before.cap and after.profile.seconds(8) == before.profile.seconds(8)


def test_bounds_tell_what_may_be_asked_for(shared, model):
    bounds = shared.bounds()
    assert (bounds.model_key, bounds.width_px, bounds.side_step_px, bounds.max_side_px) == (model.key, 16, 4, 32)
    assert bounds.schedulers[0] == "ddim" and bounds.loras == ()


# Who is next, without threads.


class FakeEngine:
    def cost(self, num_rows, num_guided, shape):
        return num_rows + num_guided

    def most(self, shape):
        return 8

    def forget(self, shape):
        pass


def fake_cast(cap=4):
    stages = SimpleNamespace(model=SimpleNamespace(latent_shape=(4, 8, 8)))
    return LoadedModel(FakeEngine(), stages, LatencyProfile({1: 1.0, 2 * cap: 1.0}), cap)


def ready(lanes, cast, bulk=False, side=8, count=1, tenant=""):
    lane = lanes.lane(cast, (4, side, side))
    tickets = [PendingImage(GenerationRequest("a", guidance_scale=3.0), lane, 10, tenant, bulk) for _ in range(count)]
    lane.ready[bulk] += tickets
    return tickets


def test_interactive_pictures_take_the_seats_of_bulk_ones_but_for_a_tenth_of_the_ticks():
    lanes, cast = BatchScheduler(), fake_cast()
    ready(lanes, cast, bulk=True, count=8)
    assert all(ticket.bulk for ticket in lanes.turn()[1])
    ready(lanes, cast, count=8)
    ticks = [[ticket.bulk for ticket in lanes.turn()[1]] for _ in range(100)]
    assert 8 <= sum(all(tick) for tick in ticks) <= 11
    assert all(len(set(tick)) == 1 for tick in ticks)


def test_bulk_pictures_fill_seats_as_far_as_that_slows_a_tick_little():
    lanes, cast = BatchScheduler(), fake_cast(cap=8)
    ready(lanes, cast, count=2)
    ready(lanes, cast, bulk=True, count=8)
    assert sum(ticket.bulk for ticket in lanes.turn()[1]) == 6  # a tick takes as long however many are in it
    next(iter(lanes)).pace.profile = LatencyProfile({4: 4.0, 16: 16.0})
    assert sum(ticket.bulk for ticket in lanes.turn()[1]) == 0


def test_lanes_share_the_time_by_the_rows_that_they_could_move():
    lanes, cast = BatchScheduler(), fake_cast()
    ready(lanes, cast, count=3)
    ready(lanes, cast, side=8, count=0)
    ready(lanes, fake_cast(), count=1)
    sizes = [len(lanes.turn()[1]) for _ in range(40)]
    assert sizes.count(3) == 30 and sizes.count(1) == 10


def test_tenants_share_the_time_of_all_lanes_evenly_however_many_sizes_they_order():
    lanes = BatchScheduler()
    for _ in range(4):
        ready(lanes, fake_cast(), count=4, tenant="many")
    (few,) = ready(lanes, fake_cast(), tenant="few")
    turns = [few in lanes.turn()[1] for _ in range(40)]
    assert 18 <= sum(turns) <= 22


def test_a_backlog_of_bulk_pictures_in_packing_stops_no_interactive_step():
    floor, cast = BatcherState(2), fake_cast()
    bulk = ready(floor.lanes, cast, bulk=True, count=2)
    floor.made[True].extend([None] * 8)
    assert not floor.movable
    mine = ready(floor.lanes, cast)
    assert floor.movable and floor.lanes.turn(floor.classes)[1] == mine
    floor.made[False].extend([None] * 8)
    assert not floor.movable
    for queue in floor.made:
        queue.clear()
    assert set(floor.lanes.turn(floor.classes)[1]) == {*mine, *bulk}


def test_a_picture_that_has_ended_is_kept_by_nothing():
    floor, cast = BatcherState(4), fake_cast()
    lane = floor.lanes.lane(cast, (4, 8, 8))
    for _ in range(300):
        ticket = PendingImage(GenerationRequest("a"), lane, 1, deadline=time.monotonic() + 1e6)
        floor.enter(ticket, 8)
        gone = weakref.ref(ticket)
        assert floor.end(ticket, "drawn")
        ticket.future.set_result(b"")
        del ticket
        assert gone() is None
    assert len(floor._deadlines) < 100
    alive = PendingImage(GenerationRequest("a"), lane, 1, deadline=time.monotonic() + 0.05)
    floor.enter(alive, 8)
    time.sleep(0.06)
    assert floor.late() == [alive] and floor.late() == []


def new(lane, steps, bulk=False):
    return PendingImage(GenerationRequest("a"), lane, steps, bulk=bulk)


def test_a_free_seat_is_no_wait_and_a_full_lane_one_until_the_first_seat_is_free():
    lanes, cast = BatchScheduler(), fake_cast(cap=8)
    tickets = ready(lanes, cast, count=7)
    lane = tickets[0].lane
    assert predict_wait_s(list(lanes), new(lane, 100)) == 100
    ready(lanes, cast)
    assert predict_wait_s(list(lanes), new(lane, 100)) == 10 + 100
    lane.waiting[False].push(new(lane, 40))
    assert predict_wait_s(list(lanes), new(lane, 100)) == 10 + 40 / 8 + 100
    assert predict_wait_s(list(lanes), new(lane, 5, bulk=True)) == 5 + (8 * 10 + 40) / 8


def test_other_lanes_take_their_share_of_the_time_until_they_are_done():
    lanes, cast = BatchScheduler(), fake_cast()
    for _ in range(8):
        ready(lanes, fake_cast())
    lane = lanes.lane(cast, (4, 8, 8))
    assert predict_wait_s(list(lanes), new(lane, 30)) == pytest.approx(30 + 8 * 10)
    assert predict_wait_s(list(lanes), new(lane, 2)) == pytest.approx(2 + 8 * 2)
    ready(lanes, cast, bulk=True)
    assert predict_wait_s(list(lanes), new(lane, 2)) == pytest.approx(18 / 0.9)


def test_a_thread_hangs_that_takes_much_longer_than_expected():
    floor = BatcherState(4)
    now = time.monotonic()
    floor.begin("a step", 30.0)
    assert 290 < floor.busy["a step"] - now < 310
    floor.begin("packing", 0.0)
    assert 50 < floor.busy["packing"] - now < 70
    floor.check()
    floor.busy["packing"] = now - 1
    with pytest.raises(RuntimeError, match="packing has not ended"):
        floor.check()


def test_who_would_not_be_drawn_in_time_even_alone_is_told_so():
    floor, cast = BatcherState(4), fake_cast()
    lane = floor.lanes.lane(cast, (4, 8, 8))
    floor.enter(PendingImage(GenerationRequest("a"), lane, 1), 8)
    with pytest.raises(DeadlineExceeded, match="20 steps of this size take longer"):
        floor.enter(PendingImage(GenerationRequest("a"), lane, 20, deadline=time.monotonic() + 10), 8)


def test_where_more_is_asked_for_than_can_be_drawn_long_pictures_are_refused_no_more_than_short_ones():
    floor, refused = BatcherState(4), {10: 0, 50: 0}
    lane = floor.lanes.lane(fake_cast(), (4, 8, 8))
    for number in range(200):
        steps = (10, 50)[number % 2]
        try:
            floor.enter(PendingImage(GenerationRequest("a"), lane, steps, deadline=time.monotonic() + 100), 1000)
        except QueueFull as full:
            assert 1 <= full.retry_after_s < 50
            refused[steps] += 1
    assert abs(refused[10] - refused[50]) <= 1 < refused[10]
    assert 150 < lane.waiting[False].steps < 400, "for a seat one waits at most as long as the longest picture leaves"


def test_who_would_come_too_late_is_not_begun_but_for_one_by_whom_predictions_are_corrected():
    floor, cast = BatcherState(4), fake_cast()
    now = time.monotonic()
    tickets = ready(floor.lanes, cast, count=3)
    for ticket, seconds in zip(tickets, (5, 1000, 5), strict=True):
        ticket.deadline = now + seconds
    lane = tickets[0].lane
    assert floor.hopeless() == [tickets[2]] and list(lane.ready[False]) == tickets[:2]
    lane.seats(False)
    late = ready(floor.lanes, cast, count=1)
    late[0].deadline = now + 9
    assert floor.hopeless() == late and lane.running[False] == tickets[:2] and not lane.ready[False]


def test_tenants_get_even_shares_of_the_steps_however_many_they_order():
    queue = FairQueue()
    for tenant, count in (("many", 20), ("few", 5)):
        for _ in range(count):
            queue.push(PendingImage(GenerationRequest("a"), None, 10, tenant))
    assert queue.ahead("few", 10) == 50 + 60 and queue.ahead("new", 10) == 20
    first = [queue.pop().tenant for _ in range(10)]
    assert first.count("few") == 5
    late = PendingImage(GenerationRequest("a"), None, 10, "late")
    queue.push(late)
    assert late in [queue.pop() for _ in range(2)]
    assert (len(queue), queue.steps) == (14, 140)


def test_the_profile_learns_and_tells_where_larger_batches_gain_nothing():
    profile = LatencyProfile({2: 2.0, 4: 3.0})
    assert profile.seconds(3) == 2.5 and profile.seconds(8) == 6.0 and profile.seconds(1) == 2.0
    for _ in range(100):
        profile.observe(4, 6.0)
    assert profile.seconds(4) == pytest.approx(6.0, rel=0.01)
    assert (
        efficient_batch_size(
            [{1: 1.0, 2: 1.2, 4: 2.0, 8: 3.9}, {1: 5.0, 2: 6.0, 4: 10.4, 8: 20.0}, {1: 1, 2: 1, 4: 9, 8: 4}]
        )
        == 4
    )
    assert efficient_batch_size([{1: 1.0, 2: 2.0, 4: 4.0}]) == 1


def test_a_tenant_by_name_leaves_room_in_the_queue_for_others():
    floor, cast = BatcherState(4), fake_cast()
    lane = floor.lanes.lane(cast, (4, 8, 8))
    for _ in range(6):
        floor.enter(PendingImage(GenerationRequest("a"), lane, 1, "greedy"), 8)
    with pytest.raises(QueueFull):
        floor.enter(PendingImage(GenerationRequest("a"), lane, 1, "greedy"), 8)
    floor.enter(PendingImage(GenerationRequest("a"), lane, 1, "other"), 8)
    assert isinstance(lane, BatchBucket) and len(floor.live) == 7
