"""Tests of creations, deletions and runners that run at the same time or die halfway."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from emoji_ldm.errors import JobNotFoundError
from emoji_ldm.serve.bulk.job_runner import JobRunner
from emoji_ldm.serve.bulk.job_store import JobStore
from emoji_ldm.store import Store
from tests.unit.serve.bulk.instant_backend import (
    InstantBackend,
    create,
    job_lines,
    keyed_job,
    make_job,
    progress_of,
    run_jobs,
)


def test_a_header_put_that_is_refused_although_there_is_none_is_retried(store, monkeypatch):
    real, refusals = Store.write_if_absent, [True]

    def conflict(self, data, *parts):
        return False if parts[-1] == "job.json" and refusals and refusals.pop() else real(self, data, *parts)

    monkeypatch.setattr(Store, "write_if_absent", conflict)
    job = make_job(store, 3)
    assert not refusals and JobStore(store).listing("ann", "emoji_set") == [job]


def test_the_key_of_a_deleted_job_starts_a_new_job_with_another_id(store):
    async def work():
        runner = JobRunner(store, InstantBackend(), poll_s=0.02)
        for _ in range(3):
            job = await asyncio.to_thread(lambda: create(store, keyed_job(store), job_lines()))
            seen.append(job.id)
            await runner.run(until_idle=True)
            assert (await asyncio.to_thread(progress_of, store, job)).totals.ok == 3
            await asyncio.to_thread(JobStore(store).delete, job)

    seen = []
    asyncio.run(work())
    assert len(set(seen)) == 3


def test_a_runner_finishes_a_deletion_that_died_halfway(store, monkeypatch):
    job = make_job(store, 3)
    run_jobs(store)

    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "delete", dies)
    with pytest.raises(KeyboardInterrupt):
        JobStore(store).delete(job)
    monkeypatch.undo()
    run_jobs(store)
    assert not [path for path in Path(store.root).rglob("*") if path.is_file()]


def test_a_creation_in_progress_is_not_taken_for_an_older_abandoned_one(store):
    jobs, job = JobStore(store), keyed_job(store)
    store.write(b"1.0 old", "sets", "open", job.id)

    def lines_with_a_look():
        yield from job_lines()
        jobs.clear_abandoned(job.id, 3600)

    create(store, job, lines_with_a_look())
    run_jobs(store)
    assert progress_of(store, job).totals.ok == 3


def test_publishing_restores_a_marker_that_was_removed_in_the_meantime(store):
    jobs, job = JobStore(store), keyed_job(store)

    def lines_with_a_look():
        yield from job_lines(2000)
        store.remove("sets", "open", job.id)
        jobs.clear_abandoned(job.id, 0)  # by a runner that had listed the job before

    created = create(store, job, lines_with_a_look())
    assert jobs.open_jobs() == [job.id] and sum(len(shard.items) for shard in jobs.shards(created)) == 2000


def test_a_job_of_another_owner_and_a_malformed_id_are_not_found(store):
    jobs, job = JobStore(store), make_job(store, 1)
    assert jobs.get(job.id, "ann") == job
    for job_id, owner in ((job.id, "bob"), ("set_0", "ann"), ("../" + job.id, "ann"), (job.id + "\n", "ann")):
        with pytest.raises(JobNotFoundError, match="there is no job"):
            jobs.get(job_id, owner)


def test_a_discarded_job_leaves_no_file_unless_another_creation_shares_its_id(store):
    jobs = JobStore(store)
    jobs.discard(jobs.stage(replace(keyed_job(store), keyed=False), job_lines()))
    assert not [path for path in Path(store.root).rglob("*") if path.is_file()]
    header = keyed_job(store)
    mine, other = jobs.stage(header, job_lines(5)), jobs.stage(header, job_lines(2))
    jobs.discard(mine)
    assert jobs.publish(other).num_images == 2 and jobs.open_jobs() == [header.id]


def test_listings_are_newest_first_and_contain_one_owner_and_kind(store):
    made = [make_job(store, 1) for _ in range(3)]
    make_job(store, 1, owner="bob")
    make_job(store, 1, kind="batch")
    assert JobStore(store).listing("ann", "emoji_set") == sorted(made, key=lambda job: (job.created_at, job.id))[::-1]
