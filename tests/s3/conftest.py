"""A real S3 server for the session, and an empty store in a bucket of its own."""

import pytest

from tests.seaweedfs_server import SeaweedServer


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory):
    """The server; it ends with the session."""
    server = SeaweedServer(tmp_path_factory.mktemp("seaweedfs")).start()
    yield server
    server.kill()


@pytest.fixture
def s3_env(seaweed, monkeypatch):
    """The environment that a user of this server has."""
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    return seaweed.endpoint


@pytest.fixture
def s3_uri(s3_env, seaweed):
    """URI of an empty store in a bucket of its own."""
    return f"s3://{seaweed.bucket()}/store"
