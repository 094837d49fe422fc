"""A real S3 server (SeaweedFS, one process) on free loopback ports, with real credentials."""

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
import pytest
from botocore.config import Config as BotoConfig

ACCESS, SECRET = "emoji-tester", "emoji-tester-secret"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory):
    """URL of the server; it ends with the session."""
    folder = tmp_path_factory.mktemp("seaweedfs")
    actions = {"actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    identity = {"name": "tester", "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}], **actions}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    port = free_port()
    ports = {name: free_port() for name in ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc",
                                            "filer.port", "filer.port.grpc", "s3.port.grpc")}  # fmt: skip
    options = [f"-{name}={value}" for name, value in ports.items()]
    command = [str(Path(sys.executable).with_name("weed")), "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1",
               "-ip.bind=127.0.0.1", "-s3", f"-s3.port={port}", f"-s3.config={folder / 's3.json'}", "-filer",
               "-s3.autoCreateBucket=false", "-master.volumeSizeLimitMB=64", "-volume.max=50", *options]  # fmt: skip
    log = (folder / "weed.log").open("wb")
    server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    endpoint = f"http://127.0.0.1:{port}"
    try:
        _wait(endpoint, server, folder / "weed.log")
        yield endpoint
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # it holds nothing to save, and takes 30 s to say goodbye
        server.wait(20)


def client(endpoint):
    config = BotoConfig(
        connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}
    )
    return boto3.client("s3", endpoint_url=endpoint, aws_access_key_id=ACCESS, aws_secret_access_key=SECRET,
                        region_name="us-east-1", config=config)  # fmt: skip


def _wait(endpoint, server, log):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            bucket = f"probe-{uuid.uuid4().hex[:8]}"
            client(endpoint).create_bucket(Bucket=bucket)
            client(endpoint).put_object(Bucket=bucket, Key="x", Body=b"x")
        except Exception:  # noqa: BLE001 - any failure means "not up yet"; the deadline decides
            time.sleep(0.3)
        else:
            return
    raise AssertionError("SeaweedFS did not come up: " + log.read_text()[-2000:])


@pytest.fixture
def s3_env(s3_endpoint, monkeypatch):
    """The environment that a user of this server has."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return s3_endpoint


@pytest.fixture
def s3_uri(s3_env):
    """URI of an empty store in a bucket of its own."""
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    client(s3_env).create_bucket(Bucket=bucket)
    return f"s3://{bucket}/store"
