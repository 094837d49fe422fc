"""Tests that hold for all routes of bulk jobs: ids and owners."""

import pytest


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/emoji-sets/set_%00", 404),
        (f"/v1/emoji-sets/set_{'a' * 300}", 404),
        (f"/v1/emoji-sets/set_{'٣' * 32}", 404),
        ("/v1/batches/batch_%00", 404),
        (f"/v1/files/file-{'a' * 5000}", 404),
        ("/v1/files/file-out-batch_%00/content", 404),
        (f"/v1/emoji-sets/JOB/items?after={'9' * 5000}", 400),
        ("/v1/emoji-sets/JOB/items?after=٣", 400),
        ("/v1/emoji-sets/JOB/zip?after=-1", 400),
        ("/v1/emoji-sets/JOB/zip?limit=0", 400),
        ("/v1/files?order=sideways", 400),
    ],
)
def test_malformed_ids_and_cursors_are_refused(service, completed_set, path, status):
    assert service.call("GET", path.replace("JOB", completed_set)).status_code == status


def test_jobs_of_other_owners_are_not_found(service):
    job_id = service.create(prompts=["a"])
    for method, tail in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/zip"), ("GET", "/items")):
        response = service.call(method, f"/v1/emoji-sets/{job_id}{tail}", owner="bob")
        assert response.status_code == 404 and "no job" in response.json()["error"]["message"]
    assert service.call("GET", "/v1/emoji-sets", owner="bob").json()["data"] == []
    assert [job["id"] for job in service.call("GET", "/v1/emoji-sets").json()["data"]] == [job_id]
    for strange in ("set_0", "..", "set_%2e%2e", "open"):
        assert service.call("GET", f"/v1/emoji-sets/{strange}").status_code == 404
