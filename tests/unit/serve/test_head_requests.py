"""HEAD answers what GET would, without the body."""

import pytest

from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.serve.api_keys import new_key, write_keys
from emoji_ldm.serve.app import build_api
from emoji_ldm.serve.bulk.api.responses import DownloadResponse
from tests.unit.serve.asgi_client import call, send
from tests.unit.serve.fake_backend import FakeBackend


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/demo-1", "/v1/models/none", "/health", "/docs",
                                  "/openapi.json", "/nowhere"])  # fmt: skip
def test_head_has_the_status_and_the_headers_of_get_and_no_body(path):
    head, get = (call(FakeBackend(), method, path) for method in ("HEAD", "GET"))
    assert head.status_code == get.status_code and head.content == b"" != get.content
    assert {**head.headers, "x-request-id": ""} == {**get.headers, "x-request-id": ""}


def test_head_draws_nothing_and_needs_a_key_as_get_does(path):
    assert call(FakeBackend(), "HEAD", "/v1/images/generations").status_code == 405
    secret, key = new_key("alice", "interactive", 0, None)
    write_keys(path, (key,))
    api = build_api(FakeBackend(), ServeConfig(keys=path))
    assert send(api, "HEAD", "/v1/models").status_code == 401
    assert send(api, "HEAD", "/v1/models", headers={"Authorization": f"Bearer {secret}"}).status_code == 200


def test_head_of_a_download_reads_nothing_of_it():
    api, read = build_api(FakeBackend()), []

    def chunks():
        for number in range(1000):
            read.append(number)
            yield b"x" * 1000

    @api.get("/file")
    async def file():
        return DownloadResponse(chunks(), size=10**6, headers={"Content-Length": "1000000"})

    response = send(api, "HEAD", "/file")
    assert (response.status_code, response.headers["content-length"], response.content) == (200, "1000000", b"")
    assert not read and not DownloadResponse.unread
