"""Tests of the execution of one job: cancellation, expiry, rows that cannot be stored."""

import asyncio

import pytest

from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.serve.bulk.bulk_job import JobLine
from emoji_ldm.serve.bulk.job_runner import JobRunner
from emoji_ldm.serve.bulk.job_state import JobState
from emoji_ldm.serve.bulk.job_store import JobStore
from tests.unit.serve.bulk.instant_backend import (
    InstantBackend,
    create,
    keyed_job,
    make_job,
    progress_of,
    rows_of,
    run_jobs,
)


def test_rows_that_parquet_cannot_hold_fail_with_the_reason_and_others_are_kept(store):
    # A lone surrogate cannot be encoded as UTF-8. Line 12 lies in the second shard, lines 8 to 15.
    request = GenerationRequest("a cat")
    lines = [JobLine("\ud800" if number == 12 else str(number), "demo", request) for number in range(40)]
    create(store, keyed_job(store), lines)
    run_jobs(store)
    rows = rows_of(store, keyed_job(store))
    failed = {row["custom_id"]: row["reason"] for row in rows if row["status"] == "failed"}
    assert len(rows) == 40 and len(failed) == 8 and "UnicodeEncodeError" in failed["\\ud800"]


def test_a_cancelled_job_stops_at_once_and_keeps_its_commits(store):
    class StuckBackend(InstantBackend):
        """Generates 100 images and then never finishes another one."""

        async def generate(self, task):
            if len(self.tasks) >= 100:
                self.in_flight += 1
                try:
                    await asyncio.Event().wait()
                finally:
                    self.in_flight -= 1
            return await super().generate(task)

    job, backend = make_job(store, 2000), StuckBackend(0.001)

    async def work():
        runner = asyncio.create_task(JobRunner(store, backend, poll_s=0.05).run(until_idle=True))
        while not (await asyncio.to_thread(progress_of, store, job)).totals.finished:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(JobState(JobStore(store), job).cancel)
        at_cancel = await asyncio.to_thread(progress_of, store, job)
        await asyncio.wait_for(runner, 60)
        return at_cancel

    at_cancel, after = asyncio.run(work()), progress_of(store, job)
    assert after.status == "cancelled" and after == at_cancel and after.totals.finished == len(rows_of(store, job)) > 0
    assert backend.in_flight == 0 and JobStore(store).open_jobs() == []


@pytest.mark.slow
def test_an_expired_job_ends_with_what_is_committed(store):
    job = make_job(store, 2000, expires_in_s=1.5)
    run_jobs(store, InstantBackend(0.1), max_in_flight=16)
    now = progress_of(store, job)
    assert now.status == "expired" and 0 < now.totals.finished < 2000
