"""A replica without Ray: its refusals, its reloads, and how busy it reports itself."""

from __future__ import annotations

import asyncio
import os
from types import SimpleNamespace

import pytest

from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.generate.continuous_batching.admission_control import DeadlineExceeded, QueueFull
from emoji_ldm.generate.continuous_batching.batcher_state import BatcherClosed
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.serve.backend import ImageTask, OtherRelease, Overloaded, TaskTimeout, to_message
from ray_jobs.serving.replica import ModelReplica, Utilization

TASK = to_message(ImageTask("tiny", GenerationRequest("a cat")))


class RefusingBatcher:
    """A batcher that admits nothing."""

    def __init__(self, error):
        self.error, self.swapped = error, []

    def submit(self, *_, **__):
        raise self.error

    def swap_model(self, *parts):
        self.swapped.append(parts)

    def close(self):
        pass


def replica(error=None, loader=None):
    """A replica whose model was never loaded."""
    made = ModelReplica.__new__(ModelReplica)
    made.batcher, made.loader, made.served = RefusingBatcher(error), loader, SimpleNamespace(name="tiny")
    made.own_adapters, made.is_traced = ("",), False
    return made


@pytest.mark.parametrize(
    ("error", "refusal"),
    [(QueueFull(2.5), Overloaded), (DeadlineExceeded(), TaskTimeout), (ConfigError("no such adapter"), ConfigError)],
)
def test_what_the_batcher_refuses_is_a_value_and_no_stack_trace_in_the_log(error, refusal):
    answer = asyncio.run(replica(error).generate(TASK))
    assert isinstance(answer, refusal)
    assert getattr(answer, "retry_after_s", 2.5) == 2.5


def test_a_task_of_a_newer_release_is_refused_only_if_it_needs_what_this_one_lacks():
    newer = {**TASK, "priority": 3}
    answer = asyncio.run(replica(QueueFull(1.0)).generate(newer))
    assert isinstance(answer, OtherRelease) and "priority" in str(answer)
    newer = {**TASK, "request": {**TASK["request"], "tiling": True}}
    assert isinstance(asyncio.run(replica(QueueFull(1.0)).generate(newer)), OtherRelease)


def test_weights_that_have_to_be_loaded_first_are_waited_for_within_the_time_of_the_task():
    made, asked = replica(QueueFull(1.0)), []

    async def use(model, lora):
        asked.append((model, lora))
        await asyncio.sleep(0 if len(asked) == 1 else 60)
        return "pixel+outline"

    made.variants = SimpleNamespace(use=use)
    submitted = []
    made.batcher.submit = lambda request, **options: submitted.append(options) or asyncio.get_running_loop()
    mix = to_message(ImageTask("tiny", GenerationRequest("a", lora="outline"), timeout_s=0.05, registered="pixel"))

    async def both():
        await made._submit(mix)
        return await made.generate(mix)

    assert isinstance(asyncio.run(both()), TaskTimeout)
    assert asked == [("pixel", "outline")] * 2 and [options["variant"] for options in submitted] == ["pixel+outline"]


def test_a_refused_stream_is_its_refusal_alone():
    async def items():
        return [item async for item in replica(QueueFull(1.0)).stream(TASK, 2)]

    [refusal] = asyncio.run(items())
    assert isinstance(refusal, Overloaded)


def test_a_batcher_that_has_stopped_ends_the_process(monkeypatch):
    monkeypatch.setattr(os, "_exit", lambda code: (_ for _ in ()).throw(SystemExit(code)))
    with pytest.raises(SystemExit):
        asyncio.run(replica(BatcherClosed()).generate(TASK))


def test_other_weights_are_in_use_only_once_the_batcher_has_them():
    loader = SimpleNamespace(uri="old", current_uri=lambda: "new", load=lambda uri: uri, adapters=lambda model: {})
    made = replica(loader=loader)
    made._reload()
    assert made.batcher.swapped == [("new", {})] and loader.uri == "new"
    made._reload()
    assert len(made.batcher.swapped) == 1


def test_weights_that_cannot_be_loaded_leave_the_old_ones():
    def fail(uri):
        raise ModelError(f"{uri} is damaged")

    loader = SimpleNamespace(uri="old", current_uri=lambda: "new", load=fail)
    made = replica(loader=loader)
    made._reload()
    assert loader.uri == "old" and not made.batcher.swapped


def test_a_replica_is_busy_by_its_forward_passes_or_by_its_encoding(monkeypatch):
    def stats(drawn, **tick_s):
        return SimpleNamespace(
            max_batch=4, encode_s=0.5, drawn=drawn, tick_s={int(rows[1:]): s for rows, s in tick_s.items()}
        )

    now = [100.0]
    monkeypatch.setattr("ray_jobs.serving.replica.time.monotonic", lambda: now[0])
    utilization = Utilization()
    now[0] += 10
    assert utilization.since_last_call(stats(1, _4=4.0, _1=4.0)) == pytest.approx(0.5)
    now[0] += 10
    assert utilization.since_last_call(stats(19, _4=4.0, _1=8.0)) == pytest.approx(0.9)
    assert utilization.since_last_call(stats(99, _4=40.0, _1=8.0)) == 1
