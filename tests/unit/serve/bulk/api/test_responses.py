"""Tests of paginated lists, of byte ranges and of the limits on downloads."""

from emoji_ldm.serve.bulk.api import responses

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


def test_downloads_beyond_the_limit_are_refused_with_a_pause(service, completed_set, monkeypatch):
    monkeypatch.setattr(responses, "MAX_CONCURRENT", 0)
    response = service.call("GET", f"/v1/emoji-sets/{completed_set}/zip")
    assert response.status_code == 503 and response.headers["retry-after"] == "5"
    assert response.json()["error"]["code"] == "too_many_downloads"
    monkeypatch.undo()
    assert service.call("GET", f"/v1/emoji-sets/{completed_set}/zip").status_code == 200
    assert responses.DownloadResponse.num_active == 0
