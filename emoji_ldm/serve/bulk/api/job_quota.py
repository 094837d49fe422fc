"""Bulk jobs and their owner's quota: charging a creation, refunding a cancellation, checking an idempotency key."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from emoji_ldm.serve.bulk.bulk_job import BulkJob, JobLine
from emoji_ldm.serve.bulk.job_state import JobState
from emoji_ldm.serve.bulk.job_store import JobStore
from emoji_ldm.serve.caller import Caller
from emoji_ldm.serve.errors import RequestError


def create_charged(jobs: JobStore, job: BulkJob, lines: Callable[[], Iterable[JobLine]], caller: Caller) -> BulkJob:
    """Check all lines, charge their images, then store and publish the job; returns the job of its id.

    Nothing is written before the charge: a line of a hundred bytes may become a hundred lines of a job, and whoever may
    not generate them must not fill the store with them. So the lines are made twice, first only to be counted. A line
    that is refused counts as one image, since its error is stored and, with what was not drawn, refunded. The
    charge is refunded if another creation of the same id was first, which then has been charged itself.

    Args:
        jobs: Where the job is stored.
        job: Its header.
        lines: Makes the lines, the same ones at every call.
        caller: Who pays.

    Raises:
        RequestError: (429) The quota is exhausted, or what `lines` raises; nothing is left in the store.
        StoreError: The job cannot be published.
    """
    num_images = sum(line.n for line in lines())
    caller.charge(num_images)
    try:
        staged = jobs.stage(job, lines())
        found = jobs.publish(staged)
    except BaseException:
        # Not discarded: the header may have been written although its response was lost.
        caller.refund_job(num_images)
        raise
    # The folder name is random, so it tells whose creation was published.
    if found.folder != staged.job.folder:
        caller.refund_job(num_images)
    return found


def cancel_job(jobs: JobStore, job: BulkJob, caller: Caller) -> None:
    """End a job and refund the images that will not be generated."""
    # A batch that failed its validation was never charged.
    if not job.errors:
        caller.refund_job(JobState(jobs, job).cancel())


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
