"""Run an `emoji-ldm` command as a Ray job on a cluster, and follow its log.

What is sent: the command line, the variables in `FORWARDED`, and the folder `working_dir` if one is given. Credentials
are never sent: Ray shows a job's environment to everyone who can open the dashboard. They belong in the cluster's own
environment (in `k8s/` a Secret). Ray sets RAY_ADDRESS for every job, so that the command joins the cluster it runs on.
For a cluster with token authentication, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emoji_ldm.errors import ConfigError, JobError

FORWARDED = ("AWS_ENDPOINT_URL", "AWS_REGION")
# Ray uploads at most 500 MB, and everything here is either large or belongs to this machine.
EXCLUDES = ["/.venv/", "/.git/", "/data/", "/runs/", "/build/", "/dist/", "__pycache__/", "/.*_cache/"]
# 128 + SIGINT, as a shell reports it.
INTERRUPTED = 130


def submit(
    stage_argv: list[str], address: str, *, working_dir: str | None, commands: Mapping[str, str] | None = None
) -> int:
    """Submit `emoji-ldm <stage_argv...>`; returns 0 if it succeeded, 1 if not, 130 if following was stopped.

    Args:
        stage_argv: The command and its arguments, as after `emoji-ldm`.
        address: The cluster's dashboard, such as http://127.0.0.1:8265.
        working_dir: Folder to upload and to run in; None where the cluster's image holds the package.
        commands: What to type later for its `logs` and to `stop` it, {job} for its id; None for those of `ray job`.

    Raises:
        ConfigError: There is no command, or the folder does not exist.
        JobError: The cluster cannot be reached or refuses the job.
    """
    _check(stage_argv, address, working_dir)
    client = _connect(address)
    # The packages of an uploaded folder can be imported on the cluster; its console scripts are not installed there.
    entrypoint = shlex.join(["python", "-m", "ray_jobs", *stage_argv])
    try:
        job = str(client.submit_job(entrypoint=entrypoint, runtime_env=_runtime_env(working_dir)))
    except (RuntimeError, ValueError, OSError) as error:
        raise JobError(f"the cluster at {address} refuses the job: {_first_line(error)}") from None
    # Printed before the first line of the log: whoever presses Ctrl-C can no longer look the id up.
    later = _commands(job, address, commands)
    _say(f"job {job} is submitted; Ctrl-C stops following, not the job\nto stop it: {later['stop']}\n")
    return _follow_until_end(client, job, later)


def follow(job: str, address: str, *, commands: Mapping[str, str] | None = None) -> int:
    """Print a job's log until it ends; returns and raises as `submit`."""
    client = _connect(address)
    try:
        # Asked first, which tells a job that does not exist from a log that is lost on the way.
        client.get_job_status(job)
    except (RuntimeError, OSError) as error:
        raise JobError(f"the cluster at {address} has no job {job}: {_first_line(error)}") from None
    return _follow_until_end(client, job, _commands(job, address, commands))


def _commands(job: str, address: str, commands: Mapping[str, str] | None) -> dict[str, str]:
    own = {
        "logs": f"ray job logs {{job}} --address {address} --follow",
        "stop": f"ray job stop {{job}} --address {address}",
    }
    # str.replace and not str.format: an address may contain braces.
    return {verb: text.replace("{job}", job) for verb, text in (commands or own).items()}


def _follow_until_end(client: Any, job: str, later: Mapping[str, str]) -> int:
    try:
        return asyncio.run(_print_log(client, job))
    except KeyboardInterrupt:
        _say(f"\nthe job still runs\nto follow it again: {later['logs']}\nto stop it: {later['stop']}\n")
        return INTERRUPTED
    except (RuntimeError, OSError) as error:
        lost = f"lost the log of {job} ({_first_line(error)}); the job may still run: {later['logs']}"
        raise JobError(lost) from None


def _check(stage_argv: list[str], address: str, working_dir: str | None) -> None:
    if not stage_argv:
        raise ConfigError("submit needs a command, such as: emoji-ldm submit crawl --address http://127.0.0.1:8265")
    # It would work, but the outer job would only wait for the inner one and hold resources meanwhile.
    if stage_argv[0] == "submit":
        raise ConfigError("a job cannot submit another one; name a stage")
    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"--address {address!r} is no address of a dashboard; write it as http://host:8265")
    if working_dir is not None and not Path(working_dir).is_dir():
        raise ConfigError(f"--working-dir {working_dir!r} is not a folder; give the project's folder, or leave it out")


def _connect(address: str) -> Any:
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    # At level INFO it prints notes on uploads between the lines of this command.
    logging.getLogger("ray.dashboard").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except AuthenticationError:
        remedy = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the cluster's token"
        raise JobError(f"the Ray dashboard at {address} refuses the token, or there is none; {remedy}") from None
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        remedy = "check the address and that its port is forwarded"
        raise JobError(f"cannot reach a Ray dashboard at {address}: {_first_line(error)}; {remedy}") from None


def _runtime_env(working_dir: str | None) -> dict[str, Any]:
    env: dict[str, Any] = {"env_vars": {name: os.environ[name] for name in FORWARDED if name in os.environ}}
    if working_dir is not None:
        env |= {"working_dir": working_dir, "excludes": EXCLUDES}
    return env


async def _print_log(client: Any, job: str) -> int:
    """Print the log as it grows; returns 0 if the job succeeded, else 1."""
    from ray.job_submission import JobStatus

    async for text in client.tail_job_logs(job):
        _say(text)
    # The exit status of a job is in its state alone.
    status = client.get_job_status(job)
    # The log ends a moment before the final state is written.
    while not status.is_terminal():
        await asyncio.sleep(0.2)
        status = client.get_job_status(job)
    if status == JobStatus.SUCCEEDED:
        _say(f"job {job} succeeded\n")
        return 0
    _say(f"job {job} {status.lower()}: {_first_line(client.get_job_info(job).message or 'no reason given')}\n")
    return 1


def _first_line(error: object) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _say(text: str) -> None:
    sys.stdout.write(text)
    # Piped output is buffered in blocks, and the log would appear minutes late.
    sys.stdout.flush()
