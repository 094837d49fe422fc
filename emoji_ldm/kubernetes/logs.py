"""`emoji-ldm cluster logs`: prints the log of a job, of the service or of the standing cluster."""

from __future__ import annotations

from collections.abc import Callable

from emoji_ldm.errors import ClusterError, ConfigError
from emoji_ldm.kubernetes import dashboard_proxy, diagnostics, status
from emoji_ldm.kubernetes.job_follower import follow, newest_submitter
from emoji_ldm.kubernetes.kubectl import Kubectl
from emoji_ldm.kubernetes.status_rows import stage_of
from emoji_ldm.progress import print_status

PODS = {"serve": "emoji-ldm/stage=serve", "cluster": "emoji-ldm/stage=cluster"}
RAY_JOB = "raysubmit_"  # the prefix of ids of jobs on the standing cluster
LOG_FILES = "store/logs"  # where components/logs uploads the log files of Ray


def run(kubectl: Kubectl, job: str, *, go_on: bool, tail: int, ray_job: Callable[..., int]) -> int:
    """Print the log; returns 0, or the exit status of the job if it is followed to its end.

    Args:
        kubectl: Access to the cluster.
        job: A RayJob, a stage (its newest job), `serve`, `cluster`, or the id of a job on the standing cluster.
        go_on: Whether to follow the log.
        tail: Number of last lines to print; -1 prints all.
        ray_job: Follows a job through a dashboard, see `ray_jobs.cli.job_submission.follow`.

    Raises:
        ConfigError: There is no such job.
        ClusterError: The job has not written anything yet, or its Pods are gone.
    """
    if job.startswith(RAY_JOB):
        if tail >= 0:
            raise ConfigError(f"Ray prints the whole log of {job}: leave out --tail")
        with dashboard_proxy.open_dashboard(kubectl) as address:
            return ray_job(job, address, commands=dashboard_proxy.commands(kubectl.namespace))
    if job in PODS:
        print_status(f"the log files of Ray are in the bucket at {LOG_FILES}/{job}/ if the overlay has component logs")
        # Several Pods write at once, so each line starts with its Pod. kubectl follows at most five logs unless told
        # otherwise.
        return _stream(kubectl, "--selector", PODS[job], "--all-containers", "--prefix", "--max-log-requests=50",
                       *_options(go_on, tail if tail >= 0 else 100))  # fmt: skip
    name = _resolve(kubectl, job)
    # To follow the whole log is to follow the job: across attempts and lost connections, with its exit status at the
    # end.
    if go_on and tail < 0:
        return follow(kubectl, name)
    pod = newest_submitter(kubectl, name)
    if pod is None:
        raise ClusterError(f"job {name} has not written anything: {_reason(kubectl, name)}")
    return _stream(kubectl, pod, *_options(go_on, tail))


def _resolve(kubectl: Kubectl, job: str) -> str:
    jobs = diagnostics.NamespaceState(tuple(kubectl.list_objects("rayjobs.ray.io"))).of_kind("RayJob")
    names = [str(obj["metadata"]["name"]) for obj in jobs]
    matching = [name for name, obj in zip(names, jobs, strict=True) if job in ("", stage_of(obj))]
    if job in names:
        return job
    if not matching:
        known = ", ".join(names) or "none"
        raise ConfigError(f"there is no job {job!r} (there are: {known}); `serve` and `cluster` have logs too")
    if matching[-1] != job:
        print_status(f"log of {matching[-1]}")
    return matching[-1]


def _reason(kubectl: Kubectl, name: str) -> str:
    row = next((row for row in status.read_status(kubectl)[0] if row.kind == "job" and row.name == name), None)
    gone = (
        f"its Pods are gone; the log files of Ray are in the bucket at {LOG_FILES}/ if the overlay has component logs"
    )
    return f"{row.state}, {row.reason or gone}" if row else "it was deleted"


def _options(go_on: bool, tail: int) -> list[str]:
    return [*(["--follow"] if go_on else []), *([f"--tail={tail}"] if tail >= 0 else [])]


def _stream(kubectl: Kubectl, *arguments: str) -> int:
    process = kubectl.popen("logs", *arguments)
    try:
        return process.wait()
    except KeyboardInterrupt:
        print_status(f"\nto see it again: kubectl -n {kubectl.namespace} logs {' '.join(arguments)}")
        return 130
    finally:
        # kubectl may still run if the wait was interrupted; one that has ended is not affected.
        process.terminate()
        process.wait()
