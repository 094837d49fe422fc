"""Replays, refusals and deadlines over scripted replicas; tests/jobs/serve/test_serve.py has real ones."""

from __future__ import annotations

import asyncio
import pickle
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve.exceptions import BackPressureError

from emoji_ldm.config import ServeConfig
from emoji_ldm.errors import ConfigError, StoreError
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.serve.backend import (
    ImageTask,
    OtherRelease,
    Overloaded,
    PartialImage,
    ReplicaLost,
    RequestLimits,
    TaskTimeout,
    from_message,
)
from emoji_ldm.serve.model_catalog import RegisteredModel
from ray_jobs.serving import replica_router
from ray_jobs.serving.replica_router import ReplicaRouter

LIMITS = RequestLimits("tiny", "0a", 32, 32, 4, 64, 10, 100, ("ddim",))
RELOADED = replace(LIMITS, model_key="0b")
FOREVER = object()


class Call:
    """What a deployment handle's `remote` returns: the items of an answer; an error among them is raised."""

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
    """A deployment handle with a script for each call."""

    deployment_name = "model-tiny"

    def __init__(self, *scripts):
        self.scripts, self.calls, self.tasks = list(scripts), [], []
        self.generate = self.stream = self

    def options(self, **_):
        return self

    def remote(self, message, *_):
        self.tasks.append(from_message(pickle.loads(pickle.dumps(message))))
        self.calls.append(Call(self.scripts.pop(0)))
        return self.calls[-1]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(replica_router, "PAUSE_S", 0.001)
    monkeypatch.setattr(replica_router, "LONGEST_PAUSE_S", 0.01)


def router_of(*scripts, **settings):
    handle = Handle(*scripts)
    return ReplicaRouter({"tiny": handle}, {"tiny": LIMITS}, ServeConfig(min_replicas=0, **settings)), handle


def task(timeout_s=5.0):
    return ImageTask("tiny", GenerationRequest("a cat", seed=3), timeout_s=timeout_s)


async def everything(items):
    return [item async for item in items]


def test_an_image_that_is_lost_with_its_replica_is_requested_again_unchanged():
    router, handle = router_of([ActorDiedError()], [ActorDiedError()], [b"png"])
    assert asyncio.run(router.generate(task())) == b"png"
    assert {sent.request for sent in handle.tasks} == {task().request}
    assert [sent.timeout_s for sent in handle.tasks] == sorted((sent.timeout_s for sent in handle.tasks), reverse=True)


def test_in_a_rolling_update_a_task_goes_on_to_a_replica_that_understands_it():
    router, handle = router_of([OtherRelease("no field tiling")], [OtherRelease("no field tiling")], [b"png"])
    assert asyncio.run(router.generate(task())) == b"png" and len(handle.tasks) == 3


def test_an_image_that_kills_every_replica_is_given_up():
    router, handle = router_of(*([ActorDiedError()] for _ in range(20)))
    with pytest.raises(ReplicaLost):
        asyncio.run(router.generate(task()))
    assert len(handle.tasks) == replica_router.MAX_REPLICA_DEATHS


def test_a_timeout_frees_the_row_and_is_counted():
    router, handle = router_of([FOREVER])
    counted = []
    router._metrics = SimpleNamespace(count_timeout=counted.append)
    with pytest.raises(TaskTimeout):
        asyncio.run(router.generate(task(timeout_s=0.05)))
    assert handle.calls[0].cancelled and counted == ["tiny"]


def test_replays_end_at_the_deadline():
    router, _ = router_of([ActorDiedError()], [FOREVER], [b"png"])
    with pytest.raises(TaskTimeout):
        asyncio.run(router.generate(task(timeout_s=0.1)))


@pytest.mark.parametrize("answer", [Overloaded(7), BackPressureError(3, 3)])
def test_a_full_queue_says_when_to_try_again(answer):
    router, handle = router_of([answer])
    with pytest.raises(Overloaded) as refusal:
        asyncio.run(router.generate(task()))
    assert refusal.value.retry_after_s in (5, 7)
    assert len(handle.tasks) == 1


def test_a_request_that_the_model_cannot_serve_is_the_callers_error():
    router, handle = router_of([ConfigError("steps=0 is refused")])
    with pytest.raises(ConfigError, match="steps=0"):
        asyncio.run(router.generate(task()))
    assert len(handle.tasks) == 1


def test_a_replayed_stream_repeats_no_preview():
    first = [PartialImage(0, b"a"), PartialImage(1, b"b"), ActorDiedError()]
    again = [PartialImage(0, b"a"), PartialImage(1, b"b"), PartialImage(2, b"c"), b"png"]
    router, _ = router_of(first, again)
    assert asyncio.run(everything(router.stream(task(), 3))) == [*first[:2], *again[2:]]


def test_leaving_a_stream_or_a_call_frees_the_row():
    async def leave():
        router, handle = router_of([PartialImage(0, b"a"), FOREVER], [FOREVER])
        items = router.stream(task(), 2)
        await anext(items)
        await items.aclose()
        draw = asyncio.create_task(router.generate(task()))
        await asyncio.sleep(0.01)
        draw.cancel()
        with pytest.raises(asyncio.CancelledError):
            await draw
        return [call.cancelled for call in handle.calls]

    assert asyncio.run(leave()) == [True, True]


def script_limits(handle, *answers):
    """Calls of `limits`, which follow a script; each entry of the list is one."""
    calls, answers = [], list(answers)
    handle.limits = SimpleNamespace(remote=lambda: (calls.append(1), Call([answers.pop(0)]))[1])
    return calls


def test_limits_are_known_before_any_replica_runs_and_are_asked_of_models_that_draw():
    async def ask():
        router, handle = router_of([b"png"], [b"png"], [b"png"], reload_s=0.05)
        calls = script_limits(handle, RELOADED, LIMITS)
        assert await router.models() == {"tiny": LIMITS} and not calls
        await router.generate(task())
        assert await router.models() == await router.models() == {"tiny": RELOADED}
        await router.generate(task())
        assert await router.models() == {"tiny": RELOADED} and len(calls) == 1
        await asyncio.sleep(0.06)  # by now there may be other weights
        await router.generate(task())
        assert await router.models() == {"tiny": LIMITS} and len(calls) == 2

    asyncio.run(ask())


@pytest.mark.parametrize("answer", [FOREVER, BackPressureError(3, 3), ActorDiedError()])
def test_a_replica_that_does_not_report_its_limits_delays_nobody(answer, monkeypatch):
    async def ask():
        router, handle = router_of([b"png"])
        script_limits(handle, answer)
        await router.generate(task())
        assert await router.models() == {"tiny": LIMITS}

    monkeypatch.setattr(replica_router, "LIMITS_TIMEOUT_S", 0.01)
    asyncio.run(asyncio.wait_for(ask(), 5))


@pytest.mark.parametrize("answer", [Overloaded(0.01), BackPressureError(3, 3)])
def test_an_accepted_image_is_not_refused_because_its_replica_died(answer):
    router, handle = router_of([ActorDiedError()], *[[answer]] * 9, [b"png"], target_wait_s=0.01)
    assert asyncio.run(router.generate(task())) == b"png"
    assert len(handle.tasks) == 11


def test_without_a_replica_in_time_the_caller_is_asked_to_try_again():
    router, _ = router_of(*[[ActorUnavailableError("away", None)]] * 500)
    with pytest.raises(Overloaded):
        asyncio.run(router.generate(task(timeout_s=0.1)))


def test_no_image_takes_longer_than_the_service_allows():
    router, handle = router_of([b"png"], timeout_s=7)
    asyncio.run(router.generate(task(timeout_s=600)))
    assert handle.tasks[0].timeout_s <= 7


def test_in_a_burst_most_refusals_cost_no_remote_call():
    """Eight images fit; of two hundred that come five at a time, all others are refused, most of them at once."""

    class Replica(Handle):
        def __init__(self):
            super().__init__()
            self.room = 8

        def remote(self, message, *_):
            self.tasks.append(from_message(message))
            full = self.room == 0
            self.room -= not full
            self.calls.append(Call([Overloaded(3.0) if full else FOREVER]))
            return self.calls[-1]

    async def burst():
        replica = Replica()
        router = ReplicaRouter({"tiny": replica}, {"tiny": LIMITS}, ServeConfig(min_replicas=0))
        calls = []
        for _ in range(40):
            calls += [asyncio.create_task(router.generate(task())) for _ in range(5)]
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        refused = [call for call in calls if call.done()]
        assert len(refused) == 192 and {call.exception().retry_after_s for call in refused} == {3.0}
        small = replace(task().request, width_px=16, height_px=16)
        others = []
        quick = replace(task().request, steps=task().request.steps - 1)
        for each in (replace(task(), tenant="other"), replace(task(), request=small), replace(task(), request=quick)):
            others.append(asyncio.create_task(router.generate(each)))
            await asyncio.sleep(0.01)
            assert replica.tasks[-1].tenant == each.tenant, "another tenant is not refused unasked"
            assert replica.tasks[-1].request == each.request, "nor is other work"
        for call in [*calls, *others]:
            call.cancel()
        await asyncio.gather(*calls, *others, return_exceptions=True)
        return len(replica.tasks)

    assert asyncio.run(burst()) < 40


def test_a_registered_model_is_drawn_by_the_replicas_of_the_default_one():
    entry = RegisteredModel("checkpoint", "uri", limits=asdict(replace(LIMITS, model="pixel")))
    router, handle = router_of([b"png"], [b"png"])
    router.catalog = SimpleNamespace(read=lambda: {"pixel": entry, "outline": RegisteredModel("adapter", "uri")})

    async def draw():
        models = await router.models()
        assert [*models] == ["tiny", "pixel"] and models["tiny"].loras == models["pixel"].loras == ("outline",)
        return await router.generate(replace(task(), model="pixel")), await router.generate(task())

    assert asyncio.run(draw()) == (b"png", b"png")
    assert [(sent.model, sent.registered) for sent in handle.tasks] == [("tiny", "pixel"), ("tiny", "")]


def test_while_the_store_is_away_the_known_models_stay():
    router, _ = router_of()
    router.catalog = SimpleNamespace(read=lambda: (_ for _ in ()).throw(StoreError("away")))
    assert [*asyncio.run(router.models())] == ["tiny"]
