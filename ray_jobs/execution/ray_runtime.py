"""The Ray cluster of a job: connect or start one, wait for resources, turn failures into one line."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import psutil
import ray
from ray._private import ray_constants
from ray._private.node import Node
from ray.autoscaler.sdk import request_resources

from emoji_ldm.config import RayConfig
from emoji_ldm.errors import JobError

START_ATTEMPTS = 3
START_TIMEOUT_MESSAGE = "timed out during startup"  # what Ray says, in an Exception of no kind

# A Ray of this process alone does without some processes. Each takes seconds of a core to start; what is left out here
# and in `group` took another 7 % of one beside a training of two ranks, where the rest of Ray takes 6 %.
SKIPPED_PROCESSES = (
    "start_api_server",
    "start_monitor",
    "start_log_monitor",
)  # dashboard, autoscaler, reader of others' logs
LIGHT_SETTINGS = {
    "RAY_prestart_worker_first_driver": "0",  # most of our workers have settings of their own, which these lack
    "RAY_event_stats": "0",  # of its own loops, for its debug log
    "REPORTER_UPDATE_INTERVAL_MS": "10000",  # metrics of the node
}
CLOSED_ADDRESS = b"127.0.0.1:9"  # where no dashboard listens

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # leave CUDA_VISIBLE_DEVICES of CPU tasks alone


def connect(config: RayConfig) -> None:
    """Join the cluster at `config.address` (or RAY_ADDRESS), else start a local one; once per process."""
    if ray.is_initialized():
        return
    address = config.address or os.environ.get("RAY_ADDRESS") or None
    local: dict[str, Any] = {}
    if address is None:
        # Logical CPUs: stages hold fractions of them, so that on two cores none waits for another for ever.
        memory = config.object_store_mb * 2**20
        local = {"num_cpus": config.num_cpus, "object_store_memory": memory, "include_dashboard": False}
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else its core warns of Ray Data's own actors
    try:
        with _quiet_start(), nullcontext() if address else _light_start():
            _join(address, local)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise JobError(f"cannot join the Ray cluster at {address or 'this machine'}: {error}") from None
    _quiet_ray_data()


def _join(address: str | None, local: dict[str, Any]) -> None:
    """Ray gives its own processes 30 s to come up, which is short where others take the cores: they get some tries."""
    for _ in range(START_ATTEMPTS):
        before = set(psutil.Process().children())
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **local)
            return
        except Exception as error:
            if START_TIMEOUT_MESSAGE not in str(error):
                raise
            for child in set(psutil.Process().children()) - before:
                _kill(child)
    raise RuntimeError(
        f"its processes did not come up in 30 s, {START_ATTEMPTS} times; end what else keeps the cores busy"
    )


def _kill(process: psutil.Process) -> None:
    """End a process and all below it."""
    with suppress(psutil.NoSuchProcess):
        for one in (*process.children(recursive=True), process):
            with suppress(psutil.NoSuchProcess):
                one.kill()


def wait_for_resources(config: RayConfig, stage: str, num_workers: int, *, num_cpus: float, num_gpus: float) -> None:
    """Wait until the cluster has the resources of `num_workers` actors; JobError names the one that is missing."""
    needs = {"CPU": num_workers * num_cpus, "GPU": num_workers * num_gpus}
    deadline = time.monotonic() + config.place_timeout_s
    while short := {name: need for name, need in needs.items() if need > ray.cluster_resources().get(name, 0) + 1e-6}:
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
    """Take back what `require` asked of an autoscaler: nodes that the next stage does not need may go."""
    if ray.is_initialized() and can_autoscale():
        request_resources(bundles=[])


def can_autoscale() -> bool:
    """A Ray that was started here never grows, and ends with this process; another may have an autoscaler."""
    node = ray._private.worker._global_node  # none here with an address of ray://
    return node is None or not node.is_head()


@contextmanager
def _light_start() -> Iterator[None]:
    """Let Ray start without the processes of `UNUSED`, for which `ray.init` has no options, and as `LEAN` says."""
    kept = {name: getattr(Node, name) for name in SKIPPED_PROCESSES}
    settings = {name: value for name, value in LIGHT_SETTINGS.items() if name not in os.environ}
    for name in SKIPPED_PROCESSES:
        setattr(Node, name, _no_dashboard if name == "start_api_server" else lambda *_: None)
    os.environ |= settings
    try:
        yield
    finally:
        for name in settings:  # Ray's processes have them now
            del os.environ[name]
        for name, method in kept.items():
            setattr(Node, name, method)


def _no_dashboard(node: Node, **_: Any) -> None:
    """Say that it is where nobody listens: without an address Ray's agent asks for one each second, and logs it."""
    where, space = ray_constants.DASHBOARD_ADDRESS.encode(), ray_constants.KV_NAMESPACE_DASHBOARD
    node.get_gcs_client().internal_kv_put(where, CLOSED_ADDRESS, True, space)


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Let Ray start without its core's notes on standard error and without its own answer to SIGTERM."""
    sys.stderr.flush()
    stop = signal.getsignal(signal.SIGTERM)
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, stop)


def _quiet_ray_data() -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    logging.getLogger("ray.train").setLevel(logging.WARNING)
