"""The Ray cluster of a job: join one or start a local one, wait for resources, turn failures into one line.

A local Ray is a head node in child processes of this one, and ends with it. Only public options of `ray.init` and
RAY_* environment variables shape it; the variables are set just before the start, and only around it.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import ray
from ray.autoscaler.sdk import request_resources
from tenacity import (
    RetryError,
    Retrying,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_fixed,
)

from emoji_ldm.config import RayConfig
from emoji_ldm.errors import JobError
from emoji_ldm.progress import print_status
from ray_jobs.execution.ray_data_compat import silence_false_alarm

START_ATTEMPTS = 3
# Ray raises this timeout as a plain Exception, so the text is the only way to recognise it.
START_TIMEOUT_MESSAGE = "timed out during startup"

# How long an address that refuses connections is asked again: a head node that restarts is back within seconds.
REACH_S = 10

# RAY_BACKEND_LOG_LEVEL is not among these. Unset, Ray's core writes errors alone to standard error; nothing, unless
# something is wrong, but for one false alarm, see `ray_data_compat`. With `fatal`, a cluster that was lost ended the
# command without a word; with any level, Ray prints a line about the variable itself.
LOCAL_SETTINGS = {
    "RAY_prestart_worker_first_driver": "0",  # most of our workers have settings of their own, which these lack
    "RAY_event_stats": "0",  # statistics of its event loops, for its debug log
    "RAY_USAGE_STATS_ENABLED": "0",  # a local Ray sends nothing to anybody
    "REPORTER_UPDATE_INTERVAL_MS": "10000",  # metrics of the node; by default Ray's agent reads them every 2.5 s
}

# For a service. Ray lowers the priority of its workers so that they leave a person's machine usable; those that answer
# requests are to go before those that draw, which lower their own (`unet_runner.begin_drawing`).
# And Ray's proxy remembers refusals.
SERVICE_SETTINGS = {
    "RAY_worker_niceness": "0",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "ray_jobs.serving.proxy_refusals:middlewares",
}

_started_here = False  # whether the Ray of this process is a local one that `connect` started


def connect(config: RayConfig) -> None:
    """Join the cluster at `config.address` (or RAY_ADDRESS), else start a local one; once per process.

    Raises:
        JobError: The cluster cannot be reached, or the local one does not start.
    """
    global _started_here
    # Stages of a pipeline share one Ray: its start takes seconds.
    if ray.is_initialized():
        return
    address = config.address or os.environ.get("RAY_ADDRESS") or None
    options: dict[str, Any] = {}
    if address is None:
        # Stages hold fractions of these logical CPUs, so that on two cores no stage waits for another for ever.
        options = {
            "num_cpus": config.num_cpus,
            # By default Ray takes 30 % of the memory for its object store, whose shards here need only some hundred
            # megabytes.
            "object_store_memory": config.object_store_mb * 2**20,
            "include_dashboard": _wants_dashboard(config),
        }
    try:
        if address is not None:
            _check_reachable(address)
        else:
            _report_others()
        with _own_sigterm_handler(), environment_defaults({} if address else LOCAL_SETTINGS):
            # Without "local", Ray would join one that `ray start` left on this machine, and refuse our options there.
            found = _init(address or "local", options)
    # OSError: Ray cannot write its folder, or nobody answers.
    except (OSError, RuntimeError, ValueError) as error:
        where = f"join the Ray cluster at {address}" if address else "start Ray on this machine"
        raise JobError(f"cannot {where}: {error}") from None
    # Only a local Ray is known not to grow, see `can_autoscale`.
    _started_here = address is None
    if _started_here and found.dashboard_url:
        print_status(f"Ray's dashboard: http://{found.dashboard_url}")
    _quiet_ray_data()


def _report_others() -> None:
    """Say so if `ray start` left a Ray on this machine: the user may have meant it, and it takes memory and cores."""
    # Its processes have lost the command that started them; those of a job that runs at the same time have theirs.
    running = [process.pid for process in psutil.process_iter(["name", "ppid"])
               if process.info["name"] == "gcs_server" and process.info["ppid"] == 1]  # fmt: skip
    if running:
        print_status(f"another Ray runs on this machine (gcs_server, process {', '.join(map(str, running))}); this "
                     "command starts its own. To join that one, give ray.address=auto")  # fmt: skip


def _check_reachable(address: str) -> None:
    """Raise ConnectionError if nobody listens at `host:port`: Ray itself would try for minutes, with warnings."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    # `auto` and other words are Ray's own to resolve, and it answers them at once.
    if not (host and port.isdigit()):
        return
    try:
        for attempt in Retrying(
            stop=stop_after_delay(REACH_S), wait=wait_fixed(1), retry=retry_if_exception_type(OSError), reraise=True
        ):
            with attempt, socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S):
                return
    except OSError as error:
        raise ConnectionError(
            f"nobody answers there ({error}); check ray.address and RAY_ADDRESS, or leave both out to start a local Ray"
        ) from None


def _wants_dashboard(config: RayConfig) -> bool | None:
    """True or False as configured; else None, with which Ray starts it if it is installed, for people at a terminal."""
    if config.dashboard is not None:
        return config.dashboard
    return None if sys.stderr.isatty() else False


def _init(address: str, options: Mapping[str, Any]) -> Any:
    """Ray gives its own processes 30 s to start, which is too short where others use the cores: they get some tries."""
    attempts = Retrying(stop=stop_after_attempt(START_ATTEMPTS), retry=retry_if_exception(_is_start_timeout))
    try:
        for attempt in attempts:
            with attempt, _no_children_after_failure():
                return ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except RetryError:
        raise RuntimeError(
            f"its processes did not start within 30 s, {START_ATTEMPTS} times; end what else keeps the cores busy"
        ) from None
    # Tenacity's loop either returns from the block above or raises RetryError; the type checker cannot know that.
    raise AssertionError("an attempt returns or raises")


def _is_start_timeout(error: BaseException) -> bool:
    return START_TIMEOUT_MESSAGE in str(error)


@contextmanager
def _no_children_after_failure() -> Iterator[None]:
    """A start that fails or is interrupted leaves processes behind, which would compete with the next: end them."""
    # The difference of two lists, because this process may have children of other libraries, which must live on.
    before = set(psutil.Process().children())
    try:
        yield
    except BaseException:
        for child in set(psutil.Process().children()) - before:
            _kill_tree(child)
        raise


def _kill_tree(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        # Children first: once their parent is gone, they could no longer be found through it.
        for one in (*process.children(recursive=True), process):
            with suppress(psutil.NoSuchProcess):
                one.kill()


@contextmanager
def environment_defaults(settings: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables that the user has not set; they are gone after the block.

    Processes that are started within the block keep them.
    """
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ |= added
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _own_sigterm_handler() -> Iterator[None]:
    """Keep this process's answer to SIGTERM: `ray.init` installs another one, which would leave workers behind."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        # Python allows handlers to be set in the main thread only, by Ray as by us.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _quiet_ray_data() -> None:
    silence_false_alarm()
    context = ray.data.DataContext.get_current()
    # Stages show one progress bar of their own, in items that people know. Ray's would show blocks and operators.
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    logging.getLogger("ray.train").setLevel(logging.WARNING)


def wait_for_resources(config: RayConfig, stage: str, num_workers: int, *, num_cpus: float, num_gpus: float) -> None:
    """Wait until the cluster has the resources of `num_workers` actors.

    Raises:
        JobError: It still lacks some after `place_timeout_s`, or at once if it cannot grow; names what is missing.
    """
    needs = {"CPU": num_workers * num_cpus, "GPU": num_workers * num_gpus}
    # The total is compared with `cluster_resources`, which counts what is in use as well: resources of the stage before
    # may be released a moment later. The 1e-6 allows for sums of fractions such as 3 * 0.1.
    deadline = time.monotonic() + config.place_timeout_s
    while short := {name: need for name, need in needs.items() if need > ray.cluster_resources().get(name, 0) + 1e-6}:
        # A local Ray never gets more resources, so there is nothing to wait for.
        if time.monotonic() > deadline or not can_autoscale():
            name, need = next(iter(short.items()))
            has = ray.cluster_resources().get(name, 0)
            raise JobError(
                f"{stage} needs {need:g} {name} for {num_workers} workers, the cluster has {has:g}; "
                f"lower its number of workers or GPUs each (emoji-ldm {stage} --dry-run shows them), or add nodes"
            )
        # An autoscaler sees demand, not waiting: ask for the nodes that these workers would need.
        request_resources(bundles=[{"CPU": num_cpus, "GPU": num_gpus} if num_gpus else {"CPU": num_cpus}] * num_workers)
        time.sleep(1)


def release_resources() -> None:
    """Withdraw what `wait_for_resources` asked of an autoscaler: nodes that the next stage does not need may go."""
    if ray.is_initialized() and can_autoscale():
        request_resources(bundles=[])


def can_autoscale() -> bool:
    """False for a Ray that `connect` started here, which never grows; any other cluster may have an autoscaler."""
    return not _started_here
