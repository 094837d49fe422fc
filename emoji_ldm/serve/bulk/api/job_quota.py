"""Job quota."""

from __future__ import annotations

from emoji_ldm.serve.auth import Caller
from emoji_ldm.serve.bulk.job_state import JobState
from emoji_ldm.serve.bulk.job_store import BulkJob, JobStore
from emoji_ldm.serve.errors import RequestError


def cancel_job(jobs: JobStore, job: BulkJob, caller: Caller) -> None:
    """End a job; what is not drawn of it does not count against its owner's quota."""
    if not job.errors:
        caller.refund(JobState(jobs, job).cancel())


def check_idempotency(job: BulkJob, digest: str) -> BulkJob:
    """The job, if a repeated request asks for it; RequestError (409) if its key was used for another one."""
    if job.digest != digest:
        raise RequestError("this idempotency key was used for another request", status=409, param="idempotency_key",
                           code="idempotency_key_reused")  # fmt: skip
    return job
