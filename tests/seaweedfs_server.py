"""A real S3 server (SeaweedFS, one process) on free loopback ports with real credentials, which may be killed."""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import boto3
from botocore.config import Config as BotoConfig

ACCESS, SECRET = "emoji-tester", "emoji-tester-secret"
PORTS = ("s3.port", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port",
         "filer.port.grpc", "s3.port.grpc")  # fmt: skip


def end_with_parent():
    """End the server when the test run is killed."""
    ctypes.CDLL("libc.so.6").prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def client(endpoint):
    config = BotoConfig(
        connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}
    )
    return boto3.client("s3", endpoint_url=endpoint, aws_access_key_id=ACCESS, aws_secret_access_key=SECRET,
                        region_name="us-east-1", config=config)  # fmt: skip


class SeaweedServer:
    """The server of one folder; it can be killed and started repeatedly, on the same ports."""

    def __init__(self, folder):
        self.folder = folder
        identity = {"name": "tester", "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}],
                    "actions": ["Admin", "Read", "Write", "List", "Tagging"]}  # fmt: skip
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (folder / "data").mkdir()
        self.ports = {name: free_port() for name in PORTS}
        self.process, self.log = None, folder / "weed.log"
        self.set_endpoint(self.ports["s3.port"])

    def set_endpoint(self, port):
        """Where the server answers, and the environment that its users need."""
        self.endpoint = f"http://127.0.0.1:{port}"
        self.environment = {"AWS_ENDPOINT_URL": self.endpoint, "AWS_ACCESS_KEY_ID": ACCESS,
                            "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}  # fmt: skip

    def start(self):
        options = [f"-{name}={value}" for name, value in self.ports.items()]
        command = [str(Path(sys.executable).with_name("weed")), "server", f"-dir={self.folder / 'data'}",
                   "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", f"-s3.config={self.folder / 's3.json'}", "-filer",
                   "-s3.autoCreateBucket=false", "-master.volumeSizeLimitMB=64", "-volume.max=1000",
                   "-s3.port.iceberg=0", "-s3.port.lance=0",  # their fixed ports would collide between two servers
                   *options]  # fmt: skip
        log = self.log.open("ab")
        self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True,
                                        preexec_fn=end_with_parent)  # fmt: skip
        return self.started()

    def started(self):
        """The server once it answers; one that does not is killed."""
        try:
            self._wait()
        except BaseException:
            self.kill()
            raise
        return self

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)  # a regular shutdown takes 30 s, and there is nothing to save
        self.process.wait(20)

    def bucket(self):
        """A new bucket."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        client(self.endpoint).create_bucket(Bucket=name)
        return name

    def _wait(self):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self._tail()
            try:
                bucket = f"probe-{uuid.uuid4().hex[:8]}"
                client(self.endpoint).create_bucket(Bucket=bucket)
                client(self.endpoint).put_object(Bucket=bucket, Key="x", Body=b"x")
            except Exception:  # noqa: BLE001 - any failure means "not up yet"; the deadline decides
                time.sleep(0.3)
            else:
                return
        raise AssertionError(f"{self.log.stem} did not come up: " + self._tail())

    def _tail(self):
        return self.log.read_text()[-2000:]
