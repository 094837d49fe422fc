"""Real S3 servers for the session, and an empty store in a bucket of its own: each test runs on every server.

SeaweedFS is always there; MinIO where its program is on the PATH.
"""

import pytest

from tests.minio_server import PROGRAM, MinioServer
from tests.seaweedfs_server import SeaweedServer

SERVERS = [SeaweedServer, *([MinioServer] if PROGRAM else [])]


@pytest.fixture(scope="session", params=SERVERS, ids=lambda server: server.__name__)
def s3_server(request, tmp_path_factory):
    """The server; it ends with the session."""
    server = request.param(tmp_path_factory.mktemp("s3")).start()
    yield server
    server.kill()


@pytest.fixture(params=SERVERS, ids=lambda server: server.__name__)
def s3_server_of_its_own(request, tmp_path):
    """A server for one test, which may kill it."""
    server = request.param(tmp_path).start()
    yield server
    server.kill()


@pytest.fixture
def s3_env(s3_server, monkeypatch):
    """The environment that a user of this server has."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server.endpoint


@pytest.fixture
def s3_uri(s3_env, s3_server):
    """URI of an empty store in a bucket of its own."""
    return f"s3://{s3_server.bucket()}/store"
