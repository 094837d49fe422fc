"""Tests of creating, cancelling and deleting sets."""

import json

import pytest


def test_form_fields_that_would_be_ignored_are_refused(service):
    file = {"file": ("x.jsonl", '{"custom_id": "a", "prompt": "a"}')}
    odd = service.call("POST", "/v1/emoji-sets", files=file, data={"n": "4"})
    assert odd.status_code == 400 and odd.json()["error"]["param"] == "n"
    days = {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    ends = service.call("POST", "/v1/files", files=file, data=days)
    assert ends.status_code == 400 and ends.json()["error"]["param"].startswith("expires_after")
    long = service.call("POST", "/v1/emoji-sets", files=file, data={"parameters": " " * 100_000 + "{}"})
    assert long.status_code == 400 and "64KB" in long.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ('{"prompts": ["' + "a" * (9 * 2**20) + '"]}', 413),
        ('{"prompts": ' + "[[]," * 300_000 + "1]}", 400),
        (json.dumps({"prompts": ["a"], "styles": ["{prompt}" + "x" * 4000]}), 400),
        (json.dumps({"prompts": ["a"], "metadata": {"k": "v" * 513}}), 400),
    ],
    ids=["long", "nested", "style", "metadata"],
)
def test_bodies_that_would_block_the_event_loop_are_refused_at_once(service, body, status):
    response = service.call("POST", "/v1/emoji-sets", content=body, headers={"content-type": "application/json"})
    assert response.status_code == status and not service.files()


def test_a_repeated_idempotency_key_returns_the_same_job_and_another_request_with_it_is_refused(service):
    def post(prompt, owner="ann"):
        return service.call(
            "POST", "/v1/emoji-sets", owner, json={"prompts": [prompt]}, headers={"idempotency-key": "k"}
        )

    first, again, other, bobs = post("a"), post("a"), post("b"), post("b", "bob")
    assert first.json()["id"] == again.json()["id"] and first.json()["seed"] == again.json()["seed"]
    assert other.status_code == 409 and bobs.status_code == 202
    service.run_jobs()
    assert post("a").json()["status"] == "completed"


def test_a_cancelled_set_generates_nothing_more_and_a_deleted_one_leaves_no_file(service):
    job_id = service.create(prompts=["a"])
    assert service.call("POST", f"/v1/emoji-sets/{job_id}/cancel").json()["status"] == "cancelled"
    service.run_jobs()
    assert service.status(job_id)["counts"]["pending"] == 1 and not service.backend.tasks
    assert service.call("GET", f"/v1/emoji-sets/{job_id}/sheet").status_code == 404
    assert service.call("DELETE", f"/v1/emoji-sets/{job_id}").json()["deleted"]
    assert service.call("GET", f"/v1/emoji-sets/{job_id}").status_code == 404
    assert not service.files()


def test_the_status_of_a_set_shows_routes_and_no_path_of_the_store(service):
    job_id = service.create(prompts=["a cat"])
    status = service.call("GET", f"/v1/emoji-sets/{job_id}")
    assert all(path.startswith(f"/v1/emoji-sets/{job_id}/") for path in status.json()["results"].values())
    for shown in (status.text, service.call("GET", "/v1/emoji-sets").text):
        assert service.store.uri not in shown and "file:" not in shown


def test_a_webhook_and_a_priority_are_kept_and_the_secret_is_shown_to_nobody(service):
    secret = "whsec_" + "QUJD" * 8
    job_id = service.create(prompts=["a"], webhook={"url": "https://example.org/x", "secret": secret}, priority=3)
    shown = service.call("GET", f"/v1/emoji-sets/{job_id}")
    assert secret not in shown.text and secret not in service.call("GET", "/v1/emoji-sets").text
    status = shown.json()
    assert status["webhook"] == {"url": "https://example.org/x", "status": "pending", "tries": 0, "error": None}
    assert status["priority"] == 3


@pytest.mark.parametrize(
    "more",
    [{"webhook": {"url": "http://example.org", "secret": "whsec_" + "QUJD" * 8}}, {"webhook": "x"}, {"priority": 11},
     {"webhook": {"url": "https://example.org", "secret": "s"}}, {"webhook": {"url": "https://example.org"}}],
)  # fmt: skip
def test_webhooks_and_priorities_that_cannot_be_kept_are_refused(service, more):
    response = service.call("POST", "/v1/emoji-sets", json={"prompts": ["a"], **more})
    assert response.status_code == 400 and response.json()["error"]["param"].startswith(next(iter(more)))


def test_a_set_that_waits_says_its_place(service):
    first, second = (service.create(prompts=["a"]) for _ in range(2))
    assert [service.status(job_id)["place"] for job_id in (first, second)] == [1, 2]
    service.run_jobs()
    assert service.status(second)["place"] is None
