"""Tests of progress and totals of a job."""

import asyncio
import time
from itertools import islice

import pytest

from emoji_ldm.serve.bulk.item_schema import failed_row
from emoji_ldm.serve.bulk.job_runner import JobRunner
from emoji_ldm.serve.bulk.job_state import JobState
from emoji_ldm.serve.bulk.job_store import JobStore
from tests.unit.serve.bulk.instant_backend import (
    InstantBackend,
    make_job,
    progress_of,
    rows_of,
    run_jobs,
)


def test_rate_and_remaining_time_come_from_the_last_commits(store):
    job, backend = make_job(store, 400), InstantBackend(0.02)

    async def work():
        runner = asyncio.create_task(JobRunner(store, backend, max_in_flight=20, poll_s=0.05).run(until_idle=True))
        while not (now := await asyncio.to_thread(progress_of, store, job)).totals.finished > 200:
            await asyncio.sleep(0.02)
        await runner
        return now

    now = asyncio.run(work())
    assert now.status == "in_progress" and now.images_per_s > 0
    assert now.eta_s == pytest.approx((400 - now.totals.finished) / now.images_per_s)
    assert now.started_at and progress_of(store, job).ended_at >= now.started_at


def test_time_without_a_runner_does_not_count_for_the_rate(store):
    completed = make_job(store, 1)
    run_jobs(store, InstantBackend())
    [row], job = rows_of(store, completed), make_job(store, 100)
    shards = [shard.name for shard in JobStore(store).shards(job)]
    first = JobState(JobStore(store), job)
    first.commit({shards[0]: [row] * 8})
    time.sleep(0.2)  # the runner was killed, and the next one starts only now
    second = JobState(JobStore(store), job)
    second.commit({shards[1]: [row] * 8})
    assert second.totals.drawn_s - first.totals.drawn_s <= time.time() - second.opened_at
    assert second.totals.started_at == first.opened_at
    second.commit({shards[2]: [row] * 8})
    now = progress_of(store, job)
    assert now.images_per_s == pytest.approx(16 / (second.totals.drawn_s - first.totals.drawn_s))


def test_cancelling_a_long_job_reads_its_newest_log_entry_only(store, monkeypatch):
    job, jobs = make_job(store, 100), JobStore(store)
    drawing, read = JobState(jobs, job), []
    for shard in islice(jobs.shards(job), 5):
        drawing.commit({shard.name: [failed_row(item, "no") for item in shard.items]})
    monkeypatch.setattr("emoji_ldm.serve.bulk.job_state.log_entries", lambda _, first: read.append(first) or iter(()))
    before = progress_of(store, job).totals
    assert JobState(jobs, job).cancel() == 60
    after = progress_of(store, job)
    assert after.status == "cancelled" and after.totals.failed == before.failed == 40
    assert read and min(read) > 5, "earlier entries are not read"


def test_a_shard_is_committed_once_and_nothing_after_the_end(store):
    job, jobs = make_job(store, 20), JobStore(store)
    first, second, third = islice(jobs.shards(job), 3)
    ours, others = JobState(jobs, job), JobState(jobs, job)
    rows = {shard.name: [failed_row(item, "no") for item in shard.items] for shard in (first, second, third)}
    assert others.commit({first.name: rows[first.name]})
    assert ours.commit({first.name: rows[first.name], second.name: rows[second.name]})
    assert not others.commit({second.name: rows[second.name]}), "another runner has committed it"
    assert ours.commit({}, "expired") and ours.ended
    assert not others.commit({third.name: rows[third.name]}), "the job has ended"
    assert len(rows_of(store, job)) == 16 and progress_of(store, job).status == "expired"
