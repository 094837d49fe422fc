"""Tests of runners: kills, concurrency, fairness, failures of the store."""

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

from emoji_ldm.serve.bulk import job_runner as runners
from emoji_ldm.serve.bulk.bulk_job import IMAGES_PER_SHARD
from emoji_ldm.serve.bulk.job_runner import JobRunner
from emoji_ldm.serve.bulk.job_state import JobState
from emoji_ldm.serve.bulk.job_store import JobStore
from emoji_ldm.store import Store
from tests.unit.serve.bulk.instant_backend import (
    InstantBackend,
    make_job,
    progress_of,
    rows_of,
    run_jobs,
)

ROOT = Path(__file__).parents[4]


def started(driver):
    """Id of a new process with a runner."""
    driver.stdin.write("\n")
    driver.stdin.flush()
    return int(driver.stdout.readline())


def test_the_oldest_jobs_go_first_and_failing_ones_occupy_no_slot(store, monkeypatch):
    monkeypatch.setattr(runners, "MAX_JOBS", 1)
    monkeypatch.setattr(runners, "PAUSE_S", 0.3)
    made = [make_job(store, 2) for _ in range(4)]
    real, started_jobs, broken = JobStore.shards, [], made[1].id

    def shards(self, job):
        started_jobs.append(job.id)
        if job.id == broken and started_jobs.count(broken) == 1:
            raise OSError("a part cannot be read")
        return real(self, job)

    monkeypatch.setattr(JobStore, "shards", shards)
    run_jobs(store)
    assert started_jobs == [*(job.id for job in made), broken]


@pytest.mark.slow
def test_five_kills_change_no_row_and_repeat_only_the_images_in_flight(store, tmp_path):
    job, calm = make_job(store, 300), Store(str(tmp_path / "calm"))
    log, kills, rng = tmp_path / "log", 5, random.Random(5)
    log.touch()
    command = [sys.executable, "-m", "tests.unit.serve.bulk.runner_process", store.uri, str(log)]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as driver:
        for _ in range(kills):
            before, runner = len(log.read_text().splitlines()), started(driver)
            while len(log.read_text().splitlines()) < before + 48:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.05))
            os.kill(runner, signal.SIGKILL)
            assert int(driver.stdout.readline()) == signal.SIGKILL, "killed at work"
        assert 0 < progress_of(store, job).totals.finished < 300
        started(driver)
        assert int(driver.stdout.readline()) == 0
        driver.stdin.close()
    other = make_job(calm, 300)
    run_jobs(calm, InstantBackend())
    assert rows_of(store, job) == rows_of(calm, other)
    assert Counter(row["custom_id"] for row in rows_of(store, job)) == {f"line-{number}": 1 for number in range(300)}
    drawn = Counter(log.read_text().splitlines())
    print(f"{kills} kills, {sum(drawn.values()) - 300} of 300 images generated again")
    assert len(drawn) == 300 and sum(drawn.values()) - 300 <= kills * (16 + 2 * IMAGES_PER_SHARD)


def test_two_concurrent_runners_commit_every_row_once(store):
    jobs = [make_job(store, 100), make_job(store, 50, owner="bob", n=3)]
    run_jobs(store, InstantBackend(0.002), InstantBackend(0.003))
    for job, count in zip(jobs, (100, 150), strict=True):
        rows = rows_of(store, job)
        assert [row["item_id"] for row in rows] == [f"{index:08d}" for index in range(count)]
        assert progress_of(store, job).totals.ok == count


def test_jobs_take_turns_and_their_tasks_are_marked_as_bulk(store):
    make_job(store, 200)
    small, backend = make_job(store, 20, owner="bob"), InstantBackend(0.02)
    run_jobs(store, backend, max_in_flight=8)
    owners = [task.tenant for task in backend.tasks]
    assert len(owners) == 220 and owners[:100].count("bob") == 20, "the small job ends before the large one"
    assert all(task.bulk for task in backend.tasks) and backend.max_in_flight <= 8
    assert progress_of(store, small).status == "completed"


def test_an_owner_with_many_jobs_does_not_starve_others(store, monkeypatch):
    monkeypatch.setattr("emoji_ldm.serve.bulk.job_runner.MAX_JOBS", 4)
    for _ in range(8):
        make_job(store, 60)
    bobs = make_job(store, 60, owner="bob")
    real, started_jobs = JobRunner._work, []

    async def work(self, job_id):
        started_jobs.append(job_id)
        await real(self, job_id)

    monkeypatch.setattr(JobRunner, "_work", work)
    run_jobs(store, InstantBackend(0.001))
    assert len(started_jobs) == 9 and bobs.id in started_jobs[:2]


def test_a_job_goes_on_after_failures_of_the_store(store, monkeypatch):
    job, runner = make_job(store, 50), JobRunner(store, InstantBackend(), poll_s=0.02)
    monkeypatch.setattr("emoji_ldm.serve.bulk.job_runner.PAUSE_S", 0.05)
    real, failures = JobState.commit, [OSError("the disk is full")] * 2

    def commit(self, *arguments):
        if failures:
            raise failures.pop()
        return real(self, *arguments)

    monkeypatch.setattr(JobState, "commit", commit)
    asyncio.run(runner.run(until_idle=True))
    assert progress_of(store, job).totals.ok == 50 and not failures
    assert runner.stats().in_flight == 0, "no place is lost"


def test_a_deleted_job_is_purged_with_files_that_were_written_late(store):
    job, backend = make_job(store, 1000), InstantBackend(0.01)
    jobs = JobStore(store)

    async def work():
        runner = asyncio.create_task(JobRunner(store, backend, poll_s=0.05).run(until_idle=True))
        while len(backend.tasks) < 50:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(JobState(jobs, job).commit, {}, "cancelled")
        await asyncio.to_thread(jobs.delete, job)
        await runner

    asyncio.run(work())
    assert [path for path in Path(store.root).rglob("*") if path.is_file()] == []


def test_the_files_of_an_abandoned_creation_are_removed(store, monkeypatch):
    monkeypatch.setattr("emoji_ldm.serve.bulk.job_runner.ABANDONED_S", 0)
    job = make_job(store, 5)
    store.remove("sets", job.id, "job.json")
    run_jobs(store, InstantBackend())
    assert store.list("sets", "open") == [] and job.id not in store.list("sets")
