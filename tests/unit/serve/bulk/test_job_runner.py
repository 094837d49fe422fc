import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from emoji_ldm.serve.backend import Overloaded, TaskTimeout
from emoji_ldm.serve.bulk import item_executor
from emoji_ldm.serve.bulk.item_executor import AimdWindow
from emoji_ldm.serve.bulk.job_runner import JobRunner
from emoji_ldm.serve.bulk.job_state import JobState
from emoji_ldm.serve.bulk.job_store import JobStore
from emoji_ldm.serve.bulk.shards import PICTURES_PER_SHARD
from emoji_ldm.store import Store
from tests.unit.serve.bulk.instant_backend import Backend, make_job, rows_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[4]


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def draw(store, *backends, **options):
    """Let a runner per backend work until no job is open; returns them."""
    runners = [JobRunner(store, backend, poll_s=0.05, **options) for backend in backends]

    async def all_of_them():
        await asyncio.gather(*(runner.run(until_idle=True) for runner in runners))

    asyncio.run(all_of_them())
    return runners


def progress(store, job):
    return JobState(JobStore(store), job).progress()


def test_five_kills_change_nothing_and_cost_no_more_than_what_was_in_flight(store, tmp_path):
    job, calm = make_job(store, 300), Store(str(tmp_path / "calm"))
    log, kills, chance = tmp_path / "log", 5, random.Random(5)
    log.touch()
    command = [sys.executable, "-m", "tests.unit.serve.bulk.runner_process", store.uri, str(log)]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as driver:
        for _ in range(kills):
            before, runner = len(log.read_text().splitlines()), started(driver)
            while len(log.read_text().splitlines()) < before + 48:
                time.sleep(0.005)
            time.sleep(chance.uniform(0, 0.05))
            os.kill(runner, signal.SIGKILL)
            assert int(driver.stdout.readline()) == signal.SIGKILL, "killed at work"
        assert 0 < progress(store, job).totals.done < 300
        started(driver)
        assert int(driver.stdout.readline()) == 0
        driver.stdin.close()
    other = make_job(calm, 300)
    draw(calm, Backend())
    assert rows_of(store, job) == rows_of(calm, other)
    assert Counter(row["custom_id"] for row in rows_of(store, job)) == {f"line-{number}": 1 for number in range(300)}
    drawn = Counter(log.read_text().splitlines())
    print(f"{kills} kills, {sum(drawn.values()) - 300} of 300 pictures drawn again")
    assert len(drawn) == 300 and sum(drawn.values()) - 300 <= kills * (16 + 2 * PICTURES_PER_SHARD)


def started(driver):
    """Id of a new process with a runner."""
    driver.stdin.write("\n")
    driver.stdin.flush()
    return int(driver.stdout.readline())


def test_two_runners_at_once_double_nothing(store):
    jobs = [make_job(store, 100), make_job(store, 50, owner="bob", n=3)]
    draw(store, Backend(0.002), Backend(0.003))
    for job, count in zip(jobs, (100, 150), strict=True):
        rows = rows_of(store, job)
        assert [row["item_id"] for row in rows] == [f"{index:08d}" for index in range(count)]
        assert progress(store, job).totals.ok == count


def test_a_picture_that_the_model_refuses_is_a_row_with_the_reason(store):
    bad, good = make_job(store, 3, prompt="refuse", n=2), make_job(store, 3)
    draw(store, Backend())
    now = progress(store, bad)
    assert now.status == "completed" and (now.totals.ok, now.totals.failed, now.totals.lines_failed) == (0, 6, 3)
    assert now.totals.errors[0] == {"custom_id": "line-0", "number": 0, "reason": "the model cannot draw this"}
    assert all(row["image"] is None and row["status"] == "failed" for row in rows_of(store, bad))
    assert progress(store, good).totals.ok == 3


def test_what_fails_for_a_while_is_tried_again_and_what_always_fails_is_given_up(store, monkeypatch):
    monkeypatch.setattr(item_executor, "LONGEST_PAUSE_S", 0.02)
    left = Counter({f"a cat {number}": 3 for number in range(50)})

    def trouble(wish):
        left[wish.draw.prompt] -= 1
        if left[wish.draw.prompt] >= 0 or wish.draw.prompt == "a cat 13":
            raise RuntimeError("a replica died")

    job = make_job(store, 50)
    runner = JobRunner(store, Backend(0.001, trouble), poll_s=0.02)
    runner.painter.first_pause_s = 0.01
    asyncio.run(runner.run(until_idle=True))
    failed = {row["custom_id"]: row["reason"] for row in rows_of(store, job) if row["status"] == "failed"}
    assert failed == {"line-13": "given up after several tries: a replica died"}


def test_a_picture_that_always_takes_too_long_is_given_up_and_others_are_not(store):
    def trouble(wish):
        if wish.draw.prompt == "a cat 13":
            raise TaskTimeout

    job = make_job(store, 50)
    runner = JobRunner(store, Backend(0.001, trouble), poll_s=0.02)
    runner.painter.first_pause_s = 0.001
    asyncio.run(runner.run(until_idle=True))
    assert progress(store, job).totals.ok == 49
    [row] = [row for row in rows_of(store, job) if row["status"] == "failed"]
    assert row["custom_id"] == "line-13" and row["reason"] == "given up after several tries: not drawn in time"
    assert runner.stats().refusals and runner.stats().failures >= item_executor.MAX_TRIES, (
        "less is asked for at once meanwhile"
    )


def test_full_pools_are_asked_for_less_and_lose_nothing(store):
    class Full(Backend):
        async def draw(self, wish):
            if self.inside >= 8:
                raise Overloaded(0.01)
            return await super().draw(wish)

    backend = Full(0.005)
    job = make_job(store, 200)
    [runner] = draw(store, backend)
    assert progress(store, job).totals.ok == 200 and len(backend.wishes) == 200
    assert runner.stats().refusals and runner.stats().window < 32


def test_jobs_take_turns_and_wishes_say_that_they_are_bulk(store):
    make_job(store, 200)
    small, backend = make_job(store, 20, owner="bob"), Backend(0.002)
    draw(store, backend, max_in_flight=8)
    owners = [wish.tenant for wish in backend.wishes]
    assert len(owners) == 220 and owners[:100].count("bob") == 20, "the small job ends while the large one goes on"
    assert all(wish.bulk for wish in backend.wishes) and backend.most <= 8
    assert progress(store, small).status == "completed"


def test_an_owner_of_many_jobs_does_not_keep_others_from_theirs(store, monkeypatch):
    monkeypatch.setattr("emoji_ldm.serve.bulk.job_runner.MAX_JOBS", 4)
    for _ in range(8):
        make_job(store, 60)
    make_job(store, 60, owner="bob")
    backend = Backend(0.001)
    draw(store, backend)
    owners = [wish.tenant for wish in backend.wishes]
    assert len(owners) == 9 * 60 and owners.index("bob") < 100, "bob is among the first four"


def test_a_cancelled_job_stops_at_once_and_keeps_what_is_committed(store):
    job, backend = make_job(store, 2000), Backend(0.01)

    async def work():
        runner = asyncio.create_task(JobRunner(store, backend, poll_s=0.05).run(until_idle=True))
        while not (await asyncio.to_thread(progress, store, job)).totals.done:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(JobState(JobStore(store), job).commit, {}, "cancelled")
        at_cancel = await asyncio.to_thread(progress, store, job)
        await runner
        return at_cancel

    at_cancel, after = asyncio.run(work()), progress(store, job)
    assert after.status == "cancelled" and after == at_cancel and after.totals.done == len(rows_of(store, job))
    assert 0 < after.totals.done < 1000 and JobStore(store).open() == []


def test_an_expired_job_ends_with_what_it_has(store):
    job = make_job(store, 2000, expires_in_s=1.5)
    draw(store, Backend(0.1), max_in_flight=16)
    now = progress(store, job)
    assert now.status == "expired" and 0 < now.totals.done < 2000


def test_rate_and_remaining_time_are_those_of_the_last_commits(store):
    job, backend = make_job(store, 400), Backend(0.02)

    async def work():
        runner = asyncio.create_task(JobRunner(store, backend, max_in_flight=20, poll_s=0.05).run(until_idle=True))
        while not (now := await asyncio.to_thread(progress, store, job)).totals.done > 200:
            await asyncio.sleep(0.02)
        await runner
        return now

    now = asyncio.run(work())
    assert now.status == "in_progress" and now.images_per_s > 0
    assert now.eta_s == pytest.approx((400 - now.totals.done) / now.images_per_s)
    assert now.started_at and progress(store, job).ended_at >= now.started_at


def test_time_in_which_nobody_drew_does_not_count_for_the_remaining_time(store):
    drawn = make_job(store, 1)
    draw(store, Backend())
    [row], job = rows_of(store, drawn), make_job(store, 100)
    shards = [shard.name for shard in JobStore(store).shards(job)]
    first = JobState(JobStore(store), job)
    first.commit({shards[0]: [row] * 8})
    time.sleep(0.5)  # it was killed, and only now there is another one
    second = JobState(JobStore(store), job)
    second.commit({shards[1]: [row] * 8})
    assert second.totals.drawn_s - first.totals.drawn_s <= time.time() - second.began
    assert second.totals.started_at == first.began
    second.commit({shards[2]: [row] * 8})
    now = progress(store, job)
    assert now.images_per_s == pytest.approx(16 / (second.totals.drawn_s - first.totals.drawn_s))


def test_a_store_that_fails_for_a_while_is_waited_for(store, monkeypatch):
    job, runner = make_job(store, 50), JobRunner(store, Backend(), poll_s=0.02)
    monkeypatch.setattr("emoji_ldm.serve.bulk.job_runner.PAUSE_S", 0.05)
    real, failures = JobState.commit, [OSError("the disk is full")] * 2

    def commit(self, *arguments):
        if failures:
            raise failures.pop()
        return real(self, *arguments)

    monkeypatch.setattr(JobState, "commit", commit)
    asyncio.run(runner.run(until_idle=True))
    assert progress(store, job).totals.ok == 50 and not failures
    assert runner.stats().in_flight == 0, "no place is lost"


def test_a_deleted_job_is_dropped_with_whatever_came_late(store):
    job, backend = make_job(store, 1000), Backend(0.01)
    jobs = JobStore(store)

    async def work():
        runner = asyncio.create_task(JobRunner(store, backend, poll_s=0.05).run(until_idle=True))
        while len(backend.wishes) < 50:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(JobState(jobs, job).commit, {}, "cancelled")
        await asyncio.to_thread(jobs.delete, job)
        await runner

    asyncio.run(work())
    assert [path for path in Path(store.root).rglob("*") if path.is_file()] == []


def test_what_a_creation_that_died_left_is_cleared_away(store, monkeypatch):
    monkeypatch.setattr("emoji_ldm.serve.bulk.job_runner.ABANDONED_S", 0)
    job = make_job(store, 5)
    store.remove("sets", job.id, "job.json")
    draw(store, Backend())
    assert store.list("sets", "open") == [] and job.id not in store.list("sets")


def test_places_are_given_out_in_order_and_none_is_lost_by_who_stops_waiting():
    async def work():
        window, order = AimdWindow(2), list[int]()

        async def one(number):
            await window.enter()
            order.append(number)
            await asyncio.sleep(0.01)
            window.leave()

        tasks = [asyncio.create_task(one(number)) for number in range(8)]
        await asyncio.sleep(0)
        tasks[4].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == [0, 1, 2, 3, 5, 6, 7] and window.inside == 0

    asyncio.run(work())
