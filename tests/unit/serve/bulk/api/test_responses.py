"""Tests of paginated lists, of byte ranges and of the limits on downloads."""

import asyncio

from emoji_ldm.serve.bulk.api import responses
from emoji_ldm.serve.caller import Caller

URL = "/v1/images/generations"


def test_lists_are_paginated_newest_first(service):
    ids = [service.create(prompts=[str(number)]) for number in range(5)][::-1]
    first = service.call("GET", "/v1/emoji-sets", params={"limit": 3}).json()
    rest = service.call("GET", "/v1/emoji-sets", params={"limit": 3, "after": first["last_id"]}).json()
    assert [job["id"] for job in first["data"] + rest["data"]] == ids
    assert first["has_more"] and not rest["has_more"]


def whole_of(service, job_id, file):
    """The bytes of a Parquet file, from the store."""
    [path] = [path for path in service.files() if path.name == file["name"].rpartition("/")[2]]
    return path.read_bytes()


def test_files_can_be_read_in_ranges_and_large_ones_must_be(service, completed_set, completed_batch, monkeypatch):
    file, *_ = service.call("GET", f"/v1/emoji-sets/{completed_set}/parquet").json()["data"]
    paths = [f"/v1/emoji-sets/{completed_set}/parquet/{file['name']}"]
    paths += [
        f"/v1/files/{completed_batch[name]}/content" for name in ("output_file_id", "error_file_id", "input_file_id")
    ]
    monkeypatch.setattr(responses, "PART_BYTES", 400)
    for path in paths:
        whole, data = service.call("GET", path).content, b""
        while len(data) < len(whole):
            part = service.call("GET", path, headers={"range": f"bytes={len(data)}-"})
            assert part.status_code == 206 and 0 < len(part.content) <= 400
            end = len(data) + len(part.content) - 1
            assert part.headers["content-range"] == f"bytes {len(data)}-{end}/{len(whole)}"
            data += part.content
        assert data == whole
        past = service.call("GET", path, headers={"range": f"bytes={len(whole)}-"})
        assert past.status_code == 416 and past.headers["content-range"] == f"bytes */{len(whole)}"
    monkeypatch.setattr(responses, "MAX_WHOLE_BYTES", 100)
    assert service.call("GET", paths[0]).status_code == 413
    assert (
        service.call("GET", paths[0], headers={"range": "bytes=3-5"}).content
        == whole_of(service, completed_set, file)[3:6]
    )


def test_what_a_slow_client_has_not_received_counts_until_it_has(monkeypatch):
    monkeypatch.setattr(responses, "SMALL_BYTES", 10)
    monkeypatch.setattr(responses, "MAX_OWNER_BYTES", 250)
    monkeypatch.setattr(responses, "MAX_UNREAD_BYTES", 450)

    class Client:
        """Takes what is sent, as Serve's proxy does, and has received all of it when `received` is set."""

        def __init__(self, owner, size=100):
            self.received, self.status = asyncio.Event(), 0
            self.state = {"caller": Caller(owner)}
            response = responses.DownloadResponse(iter([b"x" * size]), size=size)
            self.task = asyncio.create_task(response(self.scope(), self.receive, self.send))

        def scope(self):
            return {"type": "http", "method": "GET", "headers": [], "state": self.state,
                    "asgi": {"spec_version": "2.4"}}  # fmt: skip

        async def receive(self):
            await self.received.wait()
            return {"type": "http.disconnect"}

        async def send(self, message):
            self.status = message.get("status", self.status)

    async def run():
        slow = [Client("ann") for _ in range(3)]
        others = [Client("bob") for _ in range(2)] + [Client("eve")]
        await asyncio.sleep(0.05)
        assert [client.status for client in slow] == [200, 200, 503], "one response after another is no way round it"
        assert [client.status for client in others] == [200, 200, 503], "and all owners together are bounded"
        slow[0].received.set()
        await slow[0].task
        again = Client("ann")
        await asyncio.sleep(0.05)
        assert again.status == 200
        again.task.cancel()  # the client left
        for client in (*slow, *others):
            client.received.set()
        await asyncio.gather(*(client.task for client in (*slow, *others)), again.task, return_exceptions=True)
        assert not responses.DownloadResponse.unread

    asyncio.run(run())


def test_downloads_beyond_the_limit_are_refused_with_a_pause(service, completed_set, monkeypatch):
    monkeypatch.setattr(responses, "MAX_UNREAD_BYTES", 0)
    response = service.call("GET", f"/v1/emoji-sets/{completed_set}/zip")
    assert response.status_code == 503 and response.headers["retry-after"] == "5"
    assert response.json()["error"]["code"] == "too_many_downloads"
    monkeypatch.undo()
    monkeypatch.setattr(responses, "SMALL_BYTES", 0)
    assert service.call("GET", f"/v1/emoji-sets/{completed_set}/zip").status_code == 200
    assert not responses.DownloadResponse.unread
