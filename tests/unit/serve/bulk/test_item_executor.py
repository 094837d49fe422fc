"""Tests of the adaptive limit on images in flight, and of retries and failures of single images."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from emoji_ldm.serve.backend import Overloaded, ReplicaLost, TaskTimeout
from emoji_ldm.serve.bulk import item_executor
from emoji_ldm.serve.bulk.item_executor import AimdWindow
from emoji_ldm.serve.bulk.job_runner import JobRunner
from tests.unit.serve.bulk.instant_backend import (
    LIMITS,
    InstantBackend,
    create,
    job_lines,
    keyed_job,
    make_job,
    progress_of,
    rows_of,
    run_jobs,
)


def test_slots_are_granted_in_order_and_cancelled_waiters_lose_none():
    async def work():
        window, order = AimdWindow(2), list[int]()

        async def one(number):
            await window.acquire()
            order.append(number)
            await asyncio.sleep(0.01)
            window.release()

        tasks = [asyncio.create_task(one(number)) for number in range(8)]
        await asyncio.sleep(0)
        tasks[4].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == [0, 1, 2, 3, 5, 6, 7] and window.in_flight == 0

    asyncio.run(work())


def test_an_overloaded_model_does_not_hold_up_another_one(store):
    class Two(InstantBackend):
        async def models(self):
            return {"demo": LIMITS, "full": replace(LIMITS, model="full")}

        async def generate(self, task):
            if task.model == "full":
                raise Overloaded(0.5)
            return await super().generate(task)

    full, good = keyed_job(store), keyed_job(store, "other")
    create(store, full, [replace(line, model="full") for line in job_lines(60)])
    create(store, good, job_lines(100))

    async def work():
        runner = asyncio.create_task(JobRunner(store, Two(), max_in_flight=8, poll_s=0.02).run())
        while (await asyncio.to_thread(progress_of, store, good)).totals.ok < 100:
            await asyncio.sleep(0.02)
        runner.cancel()
        await asyncio.gather(runner, return_exceptions=True)

    asyncio.run(asyncio.wait_for(work(), 20))
    assert progress_of(store, full).totals.ok == 0


def test_an_image_that_kills_replicas_is_given_up_and_its_batch_neighbours_are_generated(store):
    class Fragile(InstantBackend):
        """One replica: the image that kills it takes all images in flight with it."""

        deaths = 0

        async def generate(self, task):
            deaths_before = self.deaths
            await asyncio.sleep(0.01)
            if task.request.prompt == "a cat 3":
                Fragile.deaths += 1
            if self.deaths > deaths_before:
                raise ReplicaLost("4 replicas died over it")
            return await super().generate(task)

    job = make_job(store, 60)
    runner = JobRunner(store, Fragile(), poll_s=0.02)
    runner.executor.first_pause_s = 0.01
    asyncio.run(runner.run(until_idle=True))
    failed = [row["custom_id"] for row in rows_of(store, job) if row["status"] == "failed"]
    assert failed == ["line-3"] and Fragile.deaths == 2


def test_an_image_that_the_model_refuses_becomes_a_failed_row_with_the_reason(store, caplog):
    bad, good = make_job(store, 3, prompt="refuse", n=2), make_job(store, 3)
    run_jobs(store, InstantBackend())
    now = progress_of(store, bad)
    assert now.status == "completed" and (now.totals.ok, now.totals.failed, now.totals.lines_failed) == (0, 6, 3)
    assert now.totals.errors[0] == {"custom_id": "line-0", "number": 0, "reason": "the model cannot draw this"}
    assert all(row["image"] is None and row["status"] == "failed" for row in rows_of(store, bad))
    assert progress_of(store, good).totals.ok == 3
    logged = {record.message for record in caplog.records}
    assert {
        f"request {bad.id}-{index} of a bulk job failed: the model cannot draw this" for index in range(6)
    } == logged


def test_transient_failures_are_retried_and_permanent_ones_given_up(store, monkeypatch):
    monkeypatch.setattr(item_executor, "LONGEST_PAUSE_S", 0.02)
    left = Counter({f"a cat {number}": 3 for number in range(50)})

    def fail(task):
        left[task.request.prompt] -= 1
        if left[task.request.prompt] >= 0 or task.request.prompt == "a cat 13":
            raise RuntimeError("a replica died")

    job = make_job(store, 50)
    runner = JobRunner(store, InstantBackend(0.001, fail), poll_s=0.02)
    runner.executor.first_pause_s = 0.01
    asyncio.run(runner.run(until_idle=True))
    failed = {row["custom_id"]: row["reason"] for row in rows_of(store, job) if row["status"] == "failed"}
    assert failed == {"line-13": "given up after several tries: a replica died"}


@pytest.mark.slow
def test_a_model_that_is_not_known_yet_is_waited_for_and_one_that_never_comes_fails_its_images(store, monkeypatch):
    class Late(InstantBackend):
        num_asked = 0

        async def models(self):
            self.num_asked += 1
            return {"demo": LIMITS} | ({"new": LIMITS} if self.num_asked > 5 else {})

    names = ("demo", "new", "gone")
    monkeypatch.setattr(item_executor, "UNKNOWN_MODEL_S", 0.5)
    lines = [replace(line, custom_id=name, model=name) for line, name in zip(job_lines(), names, strict=True)]
    job = create(store, keyed_job(store), lines)
    runner = JobRunner(store, Late(), poll_s=0.02)
    runner.executor.first_pause_s = 0.01
    asyncio.run(runner.run(until_idle=True))
    reasons = {row["custom_id"]: row["reason"] or "" for row in rows_of(store, job)}
    assert reasons == {"demo": "", "new": "", "gone": "there is no model 'gone' any more"}


@pytest.mark.slow
def test_an_image_that_always_times_out_is_given_up_and_others_are_not(store):
    def fail(task):
        if task.request.prompt == "a cat 13":
            raise TaskTimeout

    job = make_job(store, 50)
    runner = JobRunner(store, InstantBackend(0.001, fail), poll_s=0.02)
    runner.executor.first_pause_s = 0.001
    asyncio.run(runner.run(until_idle=True))
    assert progress_of(store, job).totals.ok == 49
    [row] = [row for row in rows_of(store, job) if row["status"] == "failed"]
    assert row["custom_id"] == "line-13" and row["reason"] == "given up after several tries: not drawn in time"
    assert runner.stats().refusals and runner.stats().failures >= item_executor.MAX_TRIES, (
        "fewer images are in flight meanwhile"
    )


def test_overloaded_replicas_get_fewer_images_and_none_is_lost(store):
    class Full(InstantBackend):
        async def generate(self, task):
            if self.in_flight >= 8:
                raise Overloaded(0.01)
            return await super().generate(task)

    backend = Full(0.005)
    job = make_job(store, 200)
    [runner] = run_jobs(store, backend)
    assert progress_of(store, job).totals.ok == 200 and len(backend.tasks) == 200
    make_job(store, 200)
    [undisturbed] = run_jobs(store, InstantBackend(0.005))
    assert runner.stats().refusals and runner.stats().window < undisturbed.stats().window


def test_of_an_owners_jobs_the_one_with_the_highest_priority_goes_first_and_others_do_not_notice():
    async def work():
        window, order = AimdWindow(1), list[str]()
        loop = asyncio.get_running_loop()

        async def job(name, owner, priority):
            for _ in range(4):
                await window.acquire(owner, priority)
                order.append(name)
                # As a dispatcher: it waits for its next slot while the image of this one is drawn.
                loop.call_later(0.01, window.release)

        await window.acquire()
        tasks = [asyncio.create_task(job(*each)) for each in (("low", "ann", 0), ("bob", "bob", 0), ("high", "ann", 5))]
        await asyncio.sleep(0)
        window.release()
        await asyncio.gather(*tasks)
        assert [name for name in order if name != "bob"] == ["high"] * 4 + ["low"] * 4
        assert 3 <= order[:8].count("bob") <= 5, order

    asyncio.run(work())
