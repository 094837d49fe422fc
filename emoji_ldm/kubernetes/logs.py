"""`emoji-ldm cluster logs`: what a job, the service or the standing cluster writes."""

from __future__ import annotations

from collections.abc import Callable

from emoji_ldm.errors import ClusterError, ConfigError
from emoji_ldm.kubernetes import dashboard_proxy, diagnostics
from emoji_ldm.kubernetes.job_follower import follow, newest
from emoji_ldm.kubernetes.kubectl import NAMESPACE, Kubectl
from emoji_ldm.kubernetes.status_rows import stage_of
from emoji_ldm.progress import print_status

PODS = {"serve": "emoji-ldm/stage=serve", "cluster": "emoji-ldm/stage=cluster"}
RAY_JOB = "raysubmit_"
FILES = "store/logs"  # where components/logs brings what Ray writes into files


def run(kubectl: Kubectl, job: str, *, go_on: bool, tail: int, ray_job: Callable[..., int]) -> int:
    """Print the log; returns 0, or the exit status of a job that is followed to its end.

    Args:
        kubectl: Of the cluster.
        job: Name of a RayJob, a stage (its newest job), `serve`, `cluster`, or the id of a job on the standing cluster.
        go_on: Follow it while it writes.
        tail: Only so many last lines; -1 for all.
        ray_job: Follows a job on a dashboard, see `ray_jobs.cli.job_submission.follow`.

    Raises:
        ConfigError: There is no such job.
        ClusterError: It has written nothing yet, or its Pods are gone.
    """
    if job.startswith(RAY_JOB):
        if tail >= 0:
            raise ConfigError(f"Ray prints the whole log of {job}: leave out --tail")
        with dashboard_proxy.open_dashboard(kubectl) as address:
            return ray_job(job, address, commands=dashboard_proxy.COMMANDS)
    if job in PODS:
        print_status(
            f"Ray's own files of these Pods are in the bucket, at {FILES}/{job}/, where the overlay has component logs"
        )
        return _stream(kubectl, "--selector", PODS[job], "--all-containers", "--prefix", "--max-log-requests=50",
                       *_options(go_on, tail if tail >= 0 else 100))  # fmt: skip
    name = _found(kubectl, job)
    if go_on and tail < 0:
        return follow(kubectl, name)
    pod = newest(kubectl, name)
    if pod is None:
        raise ClusterError(f"job {name} has written nothing: {_why(kubectl, name)}")
    return _stream(kubectl, pod, *_options(go_on, tail))


def _found(kubectl: Kubectl, job: str) -> str:
    jobs = diagnostics.NamespaceState(tuple(kubectl.list_objects("rayjobs.ray.io"))).of_kind("RayJob")
    names = [str(obj["metadata"]["name"]) for obj in jobs]
    matching = [name for name, obj in zip(names, jobs, strict=True) if job in ("", stage_of(obj))]
    if job in names:
        return job
    if not matching:
        raise ConfigError(f"there is no job {job!r}; there are: {', '.join(names) or 'none'}; besides, `serve` and "
                          "`cluster` have logs")  # fmt: skip
    if matching[-1] != job:
        print_status(f"log of {matching[-1]}")
    return matching[-1]


def _why(kubectl: Kubectl, name: str) -> str:
    from emoji_ldm.kubernetes import status

    row = next((row for row in status.read_status(kubectl)[0] if row.kind == "job" and row.name == name), None)
    gone = f"its Pods are gone; what Ray wrote is in the bucket at {FILES}/, where the overlay has component logs"
    return f"{row.state}, {row.reason or gone}" if row else "it is gone"


def _options(go_on: bool, tail: int) -> list[str]:
    return [*(["--follow"] if go_on else []), *([f"--tail={tail}"] if tail >= 0 else [])]


def _stream(kubectl: Kubectl, *words: str) -> int:
    process = kubectl.popen("logs", *words)
    try:
        return process.wait()
    except KeyboardInterrupt:
        print_status(f"\nto see it again: kubectl -n {NAMESPACE} logs {' '.join(words)}")
        return 130
    finally:
        process.terminate()
        process.wait()
