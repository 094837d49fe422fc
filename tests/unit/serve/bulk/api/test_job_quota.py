"""Tests of charges and refunds of bulk jobs."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from emoji_ldm.errors import StoreError
from emoji_ldm.serve import image_quota
from emoji_ldm.serve.bulk.api.job_quota import cancel_job, check_idempotency, create_charged
from emoji_ldm.serve.bulk.job_store import JobStore
from emoji_ldm.serve.caller import Caller
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.image_quota import ImageQuota
from emoji_ldm.store import Store
from tests.unit.serve.bulk.instant_backend import create, job_lines, keyed_job, make_job, progress_of, run_jobs


def caller_with_quota(images=60):
    return Caller("ann", ImageQuota("ann", images))


def used_by(caller):
    """Images that are counted as generated."""
    quota = caller.quota
    return quota.store.read("ann").used - quota._block


@pytest.fixture(autouse=True)
def twenty_seconds_into_a_minute(monkeypatch):
    """The clock of quotas stands still, so that no test straddles two minutes or starts at the end of one."""
    now = time.time() // image_quota.WINDOW_S * image_quota.WINDOW_S + 20
    monkeypatch.setattr(image_quota.time, "time", lambda: now)


def test_a_creation_whose_response_is_lost_and_retried_keeps_its_lines_and_is_charged_once(store, monkeypatch):
    real = Store.write_if_absent

    def twice(self, data, *parts):
        real(self, data, *parts)
        return real(self, data, *parts)  # the first PUT wins, its response is lost, the second is refused

    monkeypatch.setattr(Store, "write_if_absent", twice)
    job, caller = make_job(store, 3), caller_with_quota()
    again = create_charged(JobStore(store), keyed_job(store), job_lines, caller)
    monkeypatch.undo()
    run_jobs(store)
    assert progress_of(store, job).totals.ok == progress_of(store, again).totals.ok == 3 and used_by(caller) == 3


def test_a_failed_creation_leaves_a_concurrent_one_of_the_same_key_intact(store):
    failing, caller = keyed_job(store), caller_with_quota()

    def broken():
        yield from job_lines(1)
        create_charged(JobStore(store), failing, job_lines, caller)  # the other one starts later and ends earlier
        raise ValueError("a bad line")

    with pytest.raises(ValueError, match="a bad line"):
        create_charged(JobStore(store), failing, broken, caller)
    run_jobs(store)
    assert progress_of(store, keyed_job(store)).totals.ok == 3 and used_by(caller) == 3


def test_the_later_of_two_creations_of_a_key_returns_the_first_job_and_is_refunded(store):
    second, caller = keyed_job(store), caller_with_quota()

    def slow():
        yield from job_lines(50)
        create(store, replace(second, asked={"first": 1}), job_lines())

    found = create_charged(JobStore(store), second, slow, caller)
    assert found.asked == {"first": 1} and found.num_images == 3 and used_by(caller) == 0
    run_jobs(store)
    assert progress_of(store, found).totals.ok == 3


def test_a_creation_that_the_store_refuses_is_refunded(store, monkeypatch):
    def unreachable(*_):
        raise StoreError("no network")

    caller = caller_with_quota()
    monkeypatch.setattr(Store, "write_if_absent", unreachable)
    with pytest.raises(StoreError):
        create_charged(JobStore(store), keyed_job(store), lambda: job_lines(50), caller)
    assert used_by(caller) == 0


def test_a_job_beyond_the_quota_is_refused_and_leaves_no_file(store):
    caller = caller_with_quota()
    caller.charge(59)
    with pytest.raises(RequestError, match="60 images per minute") as refused:
        create_charged(JobStore(store), keyed_job(store), lambda: job_lines(50), caller)
    assert refused.value.status == 429 and used_by(caller) == 59
    assert not [path for path in Path(store.root).rglob("*") if path.is_file()]


def test_a_job_beyond_the_quota_is_refused_before_a_byte_is_stored(service, monkeypatch):
    assert service.call("POST", "/v1/emoji-sets", "bob", json={"prompts": ["a"], "n": 60}).status_code == 202
    written = []
    for name in ("write", "write_large", "write_if_absent"):
        monkeypatch.setattr(Store, name, lambda self, data, *parts: written.append(parts))
    lines = "\n".join(json.dumps({"custom_id": str(number), "prompt": "a", "n": 1000}) for number in range(20))
    headers = {"content-type": "application/jsonl"}
    assert service.call("POST", "/v1/emoji-sets", "bob", headers, content=lines).status_code == 429
    assert written == []


def test_cancelling_refunds_once_and_a_failed_job_nothing(store):
    jobs, job, caller = JobStore(store), make_job(store, 5), caller_with_quota()
    for _ in range(2):
        cancel_job(jobs, job, caller)
    cancel_job(jobs, jobs.create_failed(keyed_job(store), [{"message": "x"}]), caller)
    assert used_by(caller) == 0


def test_refused_lines_are_charged_and_refunded_as_one_image_each(store):
    """Else whoever cancels a batch of many bad lines at once would get back more than was charged."""
    bad = [replace(line, error="no") for line in job_lines(21)[1:]]
    jobs, caller = JobStore(store), caller_with_quota()
    caller.charge(10)
    job = create_charged(jobs, keyed_job(store), lambda: [*job_lines(1), *bad], caller)
    assert used_by(caller) == 31
    cancel_job(jobs, job, caller)
    assert used_by(caller) == 10


def test_an_idempotency_key_serves_one_request_only(store):
    job = replace(keyed_job(store), digest="a")
    assert check_idempotency(job, "a") is job
    with pytest.raises(RequestError, match="used for another request") as refused:
        check_idempotency(job, "b")
    assert refused.value.status == 409


def test_images_of_jobs_count_against_the_quota_until_they_are_cancelled(service):
    def post(number):
        return service.call("POST", "/v1/emoji-sets", "bob", json={"prompts": ["a"], "n": number})

    first = post(50).json()["id"]
    refused = post(50)
    assert refused.status_code == 429 and refused.headers["retry-after"] == "40"
    assert len(service.call("GET", "/v1/emoji-sets", "bob").json()["data"]) == 1
    for _ in range(2):
        service.call("POST", f"/v1/emoji-sets/{first}/cancel", "bob")
    assert post(50).status_code == 202 and post(50).status_code == 429
