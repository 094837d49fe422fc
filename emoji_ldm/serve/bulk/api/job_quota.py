"""Bulk jobs and their owner's quota: charging a creation, refunding a cancellation, checking an idempotency key."""

from __future__ import annotations

from collections.abc import Iterable

from emoji_ldm.serve.auth import Caller
from emoji_ldm.serve.bulk.bulk_job import BulkJob, JobLine
from emoji_ldm.serve.bulk.job_state import JobState
from emoji_ldm.serve.bulk.job_store import JobStore, StagedJob
from emoji_ldm.serve.errors import RequestError


def create_charged(jobs: JobStore, job: BulkJob, lines: Iterable[JobLine], caller: Caller) -> BulkJob:
    """Create a job and charge its images; raises what `lines` raises, and as `publish_charged`."""
    return publish_charged(jobs, jobs.stage(job, lines), caller)


def publish_charged(jobs: JobStore, staged: StagedJob, caller: Caller) -> BulkJob:
    """Charge the images of a staged job, publish it, and return the job of its id.

    The charge comes before the header is written: the other way round, a runner could start on a job that its owner
    cannot pay for. It is refunded if another creation of the same id was first, which then has been charged itself.

    Raises:
        RequestError: (429) The quota is exhausted; nothing is left in the store.
        StoreError: The job cannot be published.
    """
    try:
        caller.charge(staged.job.num_images)
    except BaseException:
        jobs.discard(staged)
        raise
    try:
        job = jobs.publish(staged)
    except BaseException:
        # Not discarded: the header may have been written although its response was lost.
        caller.refund(staged.job.num_images)
        raise
    # The folder name is random, so it tells whose creation was published.
    if job.folder != staged.job.folder:
        caller.refund(staged.job.num_images)
    return job


def cancel_job(jobs: JobStore, job: BulkJob, caller: Caller) -> None:
    """End a job and refund the images that will not be generated."""
    # A batch that failed its validation was never charged.
    if not job.errors:
        caller.refund(JobState(jobs, job).cancel())


def check_idempotency(job: BulkJob, digest: str) -> BulkJob:
    """Return the job; raises RequestError (409) if its idempotency key was used with another request.

    Args:
        job: The job that the key resolved to.
        digest: Digest of the present request, as `job_requests.request_digest` makes it.
    """
    if job.digest != digest:
        raise RequestError("this idempotency key was used for another request", status=409, param="idempotency_key",
                           code="idempotency_key_reused")  # fmt: skip
    return job
