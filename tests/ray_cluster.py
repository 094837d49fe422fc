"""A Ray cluster of processes on loopback: a head without CPUs for work, and nodes that may be killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import ray

from tests.seaweedfs_server import free_port

# A killed node refuses the connection and is declared dead after five seconds; one that is only short of CPU time on a
# busy machine has ten seconds for each answer, and stays.
FAST_HEALTH_CHECKS = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "5",
                      "RAY_health_check_timeout_ms": "10000", "RAY_health_check_initial_delay_ms": "1000"}  # fmt: skip

NODES = "import ray; ray.init(); print(*[n['NodeID'] for n in ray.nodes() if n['Alive'] and n['Resources'].get('CPU')])"


class RayCluster:
    """A head and at least one node, each with its raylet and object store."""

    def __init__(self, environment, num_cpus=8):
        self.num_cpus, self.nodes = num_cpus, []
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex}
        self.environment = {**kept, **FAST_HEALTH_CHECKS, **token, **environment, "PATH": path}
        self.folder = f"/tmp/ray-{os.getpid()}-{free_port()}"
        self.address = f"{ray.util.get_node_ip_address()}:{free_port()}"  # Ray turns a loopback address into this one
        self.head = self.node = None

    def __enter__(self):
        self.head = self._start("--head", f"--port={self.address.split(':')[1]}", "--num-cpus=0",
                                "--include-dashboard=false", f"--temp-dir={self.folder}",
                                "--include-log-monitor=false")  # fmt: skip
        deadline = time.monotonic() + 60
        while self._gcs() is None and time.monotonic() < deadline:
            assert self.head.poll() is None, "the head did not start"
            time.sleep(0.5)
        self.add_node()
        return self

    def add_node(self):
        self.node = self._start(f"--address={self.address}", f"--num-cpus={self.num_cpus}")
        self.nodes.append(self.node)

    def kill_node(self):
        """Kill the newest node with everything that runs on it."""
        for process in psutil.Process(self.node.pid).children(recursive=True):
            process.kill()
        self.node.wait(60)

    def drain_node(self, seconds):
        """Announce that the newest node goes away in `seconds`, as a preemption notice of a cloud does."""
        subprocess.check_call([
            str(Path(sys.executable).with_name("ray")), "drain-node", f"--address={self.address}",
            f"--node-id={self.ids()[-1]}", "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=taken",
            f"--deadline-remaining-seconds={seconds}",
        ], env=self.environment)  # fmt: skip

    def ids(self):
        """Ids of the nodes with CPUs that have joined."""
        environment = {**self.environment, "RAY_ADDRESS": self.address}
        return subprocess.check_output([sys.executable, "-c", NODES], env=environment, text=True).split()

    def kill_raylet(self):
        """Kill the newest node's raylet, and its object store with it, then add a node. Workers end by themselves."""
        for child in psutil.Process(self.node.pid).children(recursive=True):
            if child.name() == "raylet":
                child.kill()
        self.node.wait(60)
        self.add_node()

    def workers(self):
        """Processes of map workers on this cluster."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            if " ".join(process.info["cmdline"] or []).startswith("ray::MapWorker"):
                found.append(process)
        return [process for process in found if self._is_ours(process)]

    def __exit__(self, *_):
        for process in (*self.nodes, self.head):
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _is_ours(self, process):
        try:
            return self.folder in " ".join(process.parent().cmdline())
        except (psutil.Error, AttributeError):
            return False

    def _gcs(self):
        children = psutil.Process(self.head.pid).children(recursive=True)
        return next((child for child in children if child.name() == "raylet"), None)

    def _start(self, *options):
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block",
                   "--object-store-memory=100000000", "--disable-usage-stats", *options]  # fmt: skip
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self.environment,
                                start_new_session=True)  # fmt: skip
