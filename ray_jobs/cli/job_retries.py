"""Ends a RayJob at once where its retries would fail in the same way.

KubeRay tries a failed RayJob again on a new cluster, whatever the reason. That helps where a node was lost, and costs
an hour of machines where an option is wrong or a stage has no input. KubeRay looks at the status of the Ray job alone:
FAILED is tried again, STOPPED is not. So a command that fails for good stops its own Ray job instead of ending with an
error. Jobs with retries are told apart by a key in their metadata, which k8s/base/job.yaml sets.
"""

from __future__ import annotations

import os
import time

from emoji_ldm.progress import print_status

RETRIED = "emoji-ldm/retried"
STOP_TIMEOUT_S = 30.0


def stop_own_job() -> None:
    """Stop the Ray job that this process is the driver of, if it would be retried; else do nothing.

    Raises:
        KeyboardInterrupt: The job is being stopped: Ray sends its driver SIGTERM.
    """
    # Ray sets it for every job. Without it this is a command line, and Ray need not be imported.
    if "RAY_ADDRESS" not in os.environ:
        return
    from ray.job_submission import JobStatus, JobSubmissionClient

    try:
        client = JobSubmissionClient()
        jobs = [job for job in client.list_jobs() if job.status == JobStatus.RUNNING and job.submission_id]
        # A RayJob has a cluster of its own, so its job is the only one. Of several nobody knows which is ours.
        if len(jobs) != 1 or RETRIED not in (jobs[0].metadata or {}):
            return
        print_status("this does not pass by itself, so the job is stopped and not tried again")
        client.stop_job(jobs[0].submission_id)
    except (RuntimeError, ConnectionError, ValueError, OSError) as error:
        print_status(f"the job could not be stopped, and will be tried again: {error}")
        return
    # Ending now would set the status to FAILED before Ray has noticed that the job is to be stopped.
    time.sleep(STOP_TIMEOUT_S)
