"""Creations, deletions and runners that meet each other or die halfway."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from emoji_ldm.errors import StoreError
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.serve.auth import Caller, TokenBucket
from emoji_ldm.serve.backend import Overloaded, ReplicaLost
from emoji_ldm.serve.bulk import job_runner as runners
from emoji_ldm.serve.bulk.job_runner import JobRunner
from emoji_ldm.serve.bulk.job_state import JobState
from emoji_ldm.serve.bulk.job_store import BulkJob, JobStore
from emoji_ldm.serve.bulk.shards import JobLine
from emoji_ldm.store import Store
from tests.unit.serve.bulk.instant_backend import LIMITS, Backend, make_job, rows_of


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def lines(count=3):
    return [JobLine(str(number), "demo", GenerationRequest("a cat", seed=number)) for number in range(count)]


def keyed(store, key="k"):
    """An empty job of this idempotency key, or the one that is there."""
    job_id, job = JobStore(store).keyed("emoji_set", "ann", key)
    return job or BulkJob(job_id, "emoji_set", "ann", time.time(), time.time() + 60, {}, keyed=True)


def draw(store, backend=None, **options):
    asyncio.run(JobRunner(store, backend or Backend(), poll_s=0.02, **options).run(until_idle=True))


def done(store, job):
    return JobState(JobStore(store), job).progress().totals.ok


def paying(images=60):
    return Caller("ann", bucket=TokenBucket(images))


def test_a_creation_whose_answer_is_lost_and_sent_again_keeps_its_lines(store, monkeypatch):
    real = Store.write_once

    def twice(self, data, *parts):
        real(self, data, *parts)
        return real(self, data, *parts)  # the first PUT wins, its answer is lost, the second is refused

    monkeypatch.setattr(Store, "write_once", twice)
    job, caller = make_job(store, 3), paying()
    again = JobStore(store).create(keyed(store), lines(), caller)
    monkeypatch.undo()
    draw(store)
    assert done(store, job) == done(store, again) == 3 and caller.bucket.tokens == 57


def test_a_put_that_is_refused_with_nothing_there_is_tried_again(store, monkeypatch):
    real, refusals = Store.write_once, [True]

    def conflict(self, data, *parts):
        return False if parts[-1] == "job.json" and refusals and refusals.pop() else real(self, data, *parts)

    monkeypatch.setattr(Store, "write_once", conflict)
    assert (
        done(store, make_job(store, 3)) == 0 and not refusals and len(JobStore(store).listing("ann", "emoji_set")) == 1
    )


def test_of_two_creations_with_a_key_the_one_that_fails_leaves_the_other_whole(store):
    failing, caller = keyed(store), paying()

    def broken():
        yield from lines(1)
        JobStore(store).create(failing, lines(), caller)  # the other one begins later and is done before
        raise ValueError("a bad line")

    with pytest.raises(ValueError, match="a bad line"):
        JobStore(store).create(failing, broken(), caller)
    draw(store)
    assert done(store, keyed(store)) == 3 and caller.bucket.tokens == 57


def test_the_second_of_two_creations_with_a_key_is_the_first_s_job_and_costs_nothing(store):
    second, caller = keyed(store), paying()

    def slow():
        yield from lines(50)
        JobStore(store).create(replace(second, asked={"first": 1}), lines())

    found = JobStore(store).create(second, slow(), caller)
    assert found.asked == {"first": 1} and found.num_pictures == 3 and caller.bucket.tokens == 60
    draw(store)
    assert done(store, found) == 3


def test_what_cannot_be_made_costs_nothing(store, monkeypatch):
    def unreachable(*_):
        raise StoreError("no network")

    caller = paying()
    monkeypatch.setattr(Store, "write_once", unreachable)
    with pytest.raises(StoreError):
        JobStore(store).create(keyed(store), lines(50), caller)
    assert caller.bucket.tokens == 60


def test_a_job_deleted_and_made_again_with_its_key_is_another_one_and_drawn(store):
    async def work():
        runner = JobRunner(store, Backend(), poll_s=0.02)
        for _ in range(3):
            job = await asyncio.to_thread(lambda: JobStore(store).create(keyed(store), lines()))
            seen.append(job.id)
            await runner.run(until_idle=True)
            assert await asyncio.to_thread(done, store, job) == 3
            await asyncio.to_thread(JobStore(store).delete, job)

    seen = []
    asyncio.run(work())
    assert len(set(seen)) == 3


def test_a_deletion_that_dies_halfway_is_done_by_a_runner(store, monkeypatch):
    job = make_job(store, 3)
    draw(store)

    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "delete", dies)
    with pytest.raises(KeyboardInterrupt):
        JobStore(store).delete(job)
    monkeypatch.undo()
    draw(store)
    assert not [path for path in Path(store.root).rglob("*") if path.is_file()]


def test_a_creation_that_goes_on_is_no_abandoned_one_though_an_older_one_was(store):
    jobs, job = JobStore(store), keyed(store)
    store.write(b"1.0 old", "sets", "open", job.id)

    def looked_at():
        yield from lines()
        JobStore(store).clear_abandoned(job.id, 3600)

    jobs.create(job, looked_at())
    draw(store)
    assert done(store, job) == 3


def test_a_creation_whose_mark_another_one_took_away_is_no_abandoned_one(store):
    jobs, job = JobStore(store), keyed(store)

    def looked_at():
        yield from lines(2000)
        store.remove("sets", "open", job.id)
        jobs.clear_abandoned(job.id, 0)  # by a runner that had listed it before

    jobs.create(job, looked_at())
    assert jobs.open() == [job.id] and len(list(jobs.lines(keyed(store)))) == 2000


def test_rows_that_no_file_can_hold_fail_alone_with_the_reason(store):
    jobs, owner = JobStore(store), keyed(store)
    jobs.create(
        owner,
        [
            JobLine("\ud800" if number == 12 else str(number), "demo", GenerationRequest("a cat"))
            for number in range(40)
        ],
    )
    draw(store)
    rows = rows_of(store, keyed(store))
    failed = {row["custom_id"]: row["reason"] for row in rows if row["status"] == "failed"}
    assert len(rows) == 40 and len(failed) == 8 and "UnicodeEncodeError" in failed["\\ud800"]


def test_a_model_that_is_full_stops_no_other_one(store):
    class Two(Backend):
        async def models(self):
            return {"demo": LIMITS, "full": replace(LIMITS, model="full")}

        async def draw(self, wish):
            if wish.model == "full":
                raise Overloaded(0.5)
            return await super().draw(wish)

    jobs, full, good = JobStore(store), keyed(store), keyed(store, "other")
    jobs.create(full, [replace(line, model="full") for line in lines(60)])
    jobs.create(good, lines(100))

    async def work():
        runner = asyncio.create_task(JobRunner(store, Two(), max_in_flight=8, poll_s=0.02).run())
        while await asyncio.to_thread(done, store, good) < 100:
            await asyncio.sleep(0.02)
        runner.cancel()
        await asyncio.gather(runner, return_exceptions=True)

    asyncio.run(asyncio.wait_for(work(), 20))
    assert done(store, full) == 0


def test_a_picture_that_kills_replicas_is_given_up_soon_and_its_neighbours_are_drawn(store):
    class Fragile(Backend):
        """One replica for all: a poisonous picture takes with it what is drawn beside."""

        deaths = 0

        async def draw(self, wish):
            began = self.deaths
            await asyncio.sleep(0.01)
            if wish.draw.prompt == "a cat 3":
                Fragile.deaths += 1
            if self.deaths > began:
                raise ReplicaLost("4 replicas died over it")
            return await super().draw(wish)

    job = make_job(store, 60)
    runner = JobRunner(store, Fragile(), poll_s=0.02)
    runner.painter.first_pause_s = 0.01
    asyncio.run(runner.run(until_idle=True))
    failed = [row["custom_id"] for row in rows_of(store, job) if row["status"] == "failed"]
    assert failed == ["line-3"] and Fragile.deaths == 2


def test_the_oldest_jobs_go_first_and_failing_ones_keep_no_place(store, monkeypatch):
    monkeypatch.setattr(runners, "MAX_JOBS", 1)
    monkeypatch.setattr(runners, "PAUSE_S", 0.3)
    made = [make_job(store, 2) for _ in range(4)]
    real, began, broken = JobStore.shards, [], made[1].id

    def shards(self, job):
        began.append(job.id)
        if job.id == broken and began.count(broken) == 1:
            raise OSError("a part cannot be read")
        return real(self, job)

    monkeypatch.setattr(JobStore, "shards", shards)
    draw(store)
    assert began == [*(job.id for job in made), broken]
