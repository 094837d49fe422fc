"""Replays, refusals and deadlines over pools of replicas that die on cue; real Ray is in tests/jobs/test_serve.py."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve.exceptions import BackPressureError

from emoji_ldm.config import ServeConfig
from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.serve.backend import ImageTask, Overloaded, PartialImage, ReplicaLost, RequestLimits, TaskTimeout
from ray_jobs.serving import replica_router
from ray_jobs.serving.replica_router import ReplicaRouter

LIMITS = RequestLimits("tiny", "0a", 32, 32, 4, 64, 10, 100, ("ddim",))
TOLD = replace(LIMITS, model_key="0b")
FOREVER = object()


class Call:
    """What a deployment handle's `remote` gives: items of an answer, an error among them is raised."""

    def __init__(self, items):
        self.items, self.cancelled = iter(items), False

    def __aiter__(self):
        return self

    async def __anext__(self):
        item = next(self.items)
        if item is FOREVER:
            await asyncio.Event().wait()
        if isinstance(item, ActorDiedError | ActorUnavailableError | BackPressureError):
            raise item
        return item

    def __await__(self):
        return self.__anext__().__await__()

    def cancel(self):
        self.cancelled = True


class Handle:
    """A deployment handle whose calls go as told, one after another."""

    deployment_name = "model-tiny"

    def __init__(self, *scripts):
        self.scripts, self.calls, self.wishes = list(scripts), [], []
        self.generate = self.stream = self

    def options(self, **_):
        return self

    def remote(self, wish, *_):
        self.wishes.append(wish)
        self.calls.append(Call(self.scripts.pop(0)))
        return self.calls[-1]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(replica_router, "PAUSE_S", 0.001)
    monkeypatch.setattr(replica_router, "LONGEST_PAUSE_S", 0.01)


def pool_of(*scripts, **settings):
    handle = Handle(*scripts)
    return ReplicaRouter({"tiny": handle}, {"tiny": LIMITS}, ServeConfig(min_replicas=0, **settings)), handle


def wish(timeout_s=5.0):
    return ImageTask("tiny", GenerationRequest("a cat", seed=3), timeout_s=timeout_s)


async def everything(items):
    return [item async for item in items]


def test_a_draw_that_dies_with_its_replica_is_asked_for_again_as_it_was():
    pool, handle = pool_of([ActorDiedError()], [ActorDiedError()], [b"png"])
    assert asyncio.run(pool.generate(wish())) == b"png"
    assert {asked.request for asked in handle.wishes} == {wish().request}
    assert [asked.timeout_s for asked in handle.wishes] == sorted(
        (asked.timeout_s for asked in handle.wishes), reverse=True
    )


def test_a_draw_that_kills_every_replica_is_given_up():
    pool, handle = pool_of(*([ActorDiedError()] for _ in range(20)))
    with pytest.raises(ReplicaLost):
        asyncio.run(pool.generate(wish()))
    assert len(handle.wishes) == replica_router.MAX_REPLICA_DEATHS


def test_nobody_waits_longer_than_wished_and_the_row_is_freed_and_it_is_counted():
    pool, handle = pool_of([FOREVER])
    counted = []
    pool._metrics = SimpleNamespace(count_timeout=counted.append)
    with pytest.raises(TaskTimeout):
        asyncio.run(pool.generate(wish(timeout_s=0.05)))
    assert handle.calls[0].cancelled and counted == ["tiny"]


def test_replays_end_with_the_wish():
    pool, _ = pool_of([ActorDiedError()], [FOREVER], [b"png"])
    with pytest.raises(TaskTimeout):
        asyncio.run(pool.generate(wish(timeout_s=0.1)))


@pytest.mark.parametrize("answer", [Overloaded(7), BackPressureError(3, 3)])
def test_a_full_pool_says_when_to_come_back(answer):
    pool, handle = pool_of([answer])
    with pytest.raises(Overloaded) as refusal:
        asyncio.run(pool.generate(wish()))
    assert refusal.value.retry_after_s in (5, 7)
    assert len(handle.wishes) == 1


def test_what_the_model_cannot_draw_is_the_askers_fault():
    pool, handle = pool_of([ConfigError("steps=0 is refused")])
    with pytest.raises(ConfigError, match="steps=0"):
        asyncio.run(pool.generate(wish()))
    assert len(handle.wishes) == 1


def test_a_replayed_stream_repeats_no_preview():
    first = [PartialImage(0, b"a"), PartialImage(1, b"b"), ActorDiedError()]
    again = [PartialImage(0, b"a"), PartialImage(1, b"b"), PartialImage(2, b"c"), b"png"]
    pool, _ = pool_of(first, again)
    assert asyncio.run(everything(pool.stream(wish(), 3))) == [*first[:2], *again[2:]]


def test_who_leaves_a_stream_or_a_draw_frees_the_row():
    async def leave():
        pool, handle = pool_of([PartialImage(0, b"a"), FOREVER], [FOREVER])
        items = pool.stream(wish(), 2)
        await anext(items)
        await items.aclose()
        draw = asyncio.create_task(pool.generate(wish()))
        await asyncio.sleep(0.01)
        draw.cancel()
        with pytest.raises(asyncio.CancelledError):
            await draw
        return [call.cancelled for call in handle.calls]

    assert asyncio.run(leave()) == [True, True]


def asked_of(handle, *answers):
    """Calls of `limits`, which go as told; each entry of the list is one."""
    calls, answers = [], list(answers)
    handle.limits = SimpleNamespace(remote=lambda: (calls.append(1), Call([answers.pop(0)]))[1])
    return calls


def test_what_models_allow_is_known_before_any_replica_runs_and_asked_of_those_that_draw():
    async def ask():
        pool, handle = pool_of([b"png"], [b"png"], [b"png"], reload_s=0.05)
        calls = asked_of(handle, TOLD, LIMITS)
        assert await pool.models() == {"tiny": LIMITS} and not calls
        await pool.generate(wish())
        assert await pool.models() == await pool.models() == {"tiny": TOLD}
        await pool.generate(wish())
        assert await pool.models() == {"tiny": TOLD} and len(calls) == 1
        await asyncio.sleep(0.06)  # by now there may be other weights
        await pool.generate(wish())
        assert await pool.models() == {"tiny": LIMITS} and len(calls) == 2

    asyncio.run(ask())


@pytest.mark.parametrize("answer", [FOREVER, BackPressureError(3, 3), ActorDiedError()])
def test_a_replica_that_does_not_tell_its_limits_holds_up_nobody(answer, monkeypatch):
    async def ask():
        pool, handle = pool_of([b"png"])
        asked_of(handle, answer)
        await pool.generate(wish())
        assert await pool.models() == {"tiny": LIMITS}

    monkeypatch.setattr(replica_router, "LIMITS_TIMEOUT_S", 0.01)
    asyncio.run(asyncio.wait_for(ask(), 5))


@pytest.mark.parametrize("answer", [Overloaded(0.01), BackPressureError(3, 3)])
def test_a_picture_that_was_taken_is_not_refused_because_its_replica_died(answer):
    pool, handle = pool_of([ActorDiedError()], *[[answer]] * 9, [b"png"], target_wait_s=0.01)
    assert asyncio.run(pool.generate(wish())) == b"png"
    assert len(handle.wishes) == 11


def test_who_finds_no_replica_in_time_may_come_back():
    pool, _ = pool_of(*[[ActorUnavailableError("away", None)]] * 500)
    with pytest.raises(Overloaded):
        asyncio.run(pool.generate(wish(timeout_s=0.1)))


def test_no_picture_takes_longer_than_the_service_allows():
    pool, handle = pool_of([b"png"], timeout_s=7)
    asyncio.run(pool.generate(wish(timeout_s=600)))
    assert handle.wishes[0].timeout_s <= 7
