"""Tests of the lines that requests for sets expand to."""

import csv
import io
import json
import zipfile

import pytest

from emoji_ldm.serve.bulk.api.job_requests import derived_seed


def test_parameters_of_a_line_override_those_of_the_set(service):
    lines = [
        {"custom_id": "a", "prompt": "a cat"},
        {"custom_id": "b", "prompt": "a dog", "n": 3, "steps": 9, "seed": 1},
    ]
    file = "\n".join(map(json.dumps, lines)) + "\n\n"
    shared = json.dumps({"num_inference_steps": 3, "negative_prompt": "fog", "seed": 8})
    response = service.call("POST", "/v1/emoji-sets", files={"file": ("x.jsonl", file)}, data={"parameters": shared})
    raw = service.call("POST", "/v1/emoji-sets", content=file, headers={"content-type": "application/jsonl"})
    assert response.status_code == raw.status_code == 202
    service.run_jobs()
    items = service.call("GET", f"/v1/emoji-sets/{response.json()['id']}/items").json()["data"]
    assert [(row["custom_id"], row["seed"], row["steps"], row["negative_prompt"]) for row in items] == [
        ("a", derived_seed(8, "a", 0), 3, "fog"),
        ("b", 1, 9, "fog"), ("b", 2, 9, "fog"), ("b", 3, 9, "fog")]  # fmt: skip
    assert service.status(raw.json()["id"])["counts"]["completed"] == 4


@pytest.mark.parametrize(
    ("body", "param", "text"),
    [
        ({}, "prompts", "missing"),
        ({"prompts": []}, "prompts", "missing"),
        ({"prompts": ["a", " "]}, "prompts[1]", "empty"),
        ({"prompts": ["a", 3]}, "prompts.1", "string"),
        ({"prompts": ["a"], "n": 0}, "n", "greater"),
        ({"prompts": ["a"], "styles": ["flat"]}, "styles.0", "{prompt}"),
        ({"prompts": ["a"], "steps": 0}, "num_inference_steps", "greater"),
        ({"prompts": ["a"], "steps": 10_000}, "num_inference_steps", "at most 100"),
        ({"prompts": ["a"], "stepz": 3}, "stepz", "steps"),
        ({"prompts": ["a"], "scheduler": "magic"}, "scheduler", "magic"),
        ({"prompts": ["a"], "size": "7x7"}, "size", "multiples"),
        ({"prompts": ["a"], "stream": True}, "stream", "bulk"),
        ({"prompts": ["a"], "prompt": "b"}, "prompt", "prompts"),
        ({"prompts": ["a"], "seed": 2**63, "n": 2}, "seed", "less than"),
        ({"prompts": ["a"] * 1000, "n": 1000}, None, "200,000"),
    ],
)  # fmt: skip
def test_an_invalid_request_names_the_field_and_leaves_nothing_in_the_store(service, body, param, text):
    response = service.call("POST", "/v1/emoji-sets", json=body)
    error = response.json()["error"]
    assert response.status_code == 400 and error["param"] == param and text in error["message"]
    assert not service.files()


def test_prompts_of_any_script_are_kept_unchanged(service):
    prompts = [
        "😀 with 🎩",
        "وجه سعيد",
        "שמח",
        "猫",
        "e\u0301 \u202e turned",
        "a" * 4000,
        "=SUM(A1)",
        '"quoted", text\nline',
    ]
    job_id = service.create(prompts=prompts)
    service.run_jobs()
    items = service.call("GET", f"/v1/emoji-sets/{job_id}/items").json()["data"]
    assert [row["prompt"] for row in items] == prompts and {row["status"] for row in items} == {"ok"}
    with zipfile.ZipFile(io.BytesIO(service.call("GET", f"/v1/emoji-sets/{job_id}/zip").content)) as archive:
        rows = list(csv.DictReader(io.StringIO(archive.read("prompts.csv").decode(), newline="")))
    assert [row["prompt"] for row in rows] == prompts


def test_one_seed_for_a_set_gives_every_line_and_style_a_seed_of_its_own(service):
    def seeds(prompts, **more):
        job_id = service.create(prompts=prompts, styles=["{prompt}, flat", "pixel {prompt}"], seed=5, **more)
        service.run_jobs()
        return [row["seed"] for row in service.call("GET", f"/v1/emoji-sets/{job_id}/items").json()["data"]]

    first = seeds(["a cat", "a dog", "a hen"])
    assert len(set(first)) == 6 and first == seeds(["a cat", "a dog", "a hen"]), "the set's seed decides all of them"
    assert seeds(["a cat", "a dog"]) == first[:4], "whatever else is in the set"
    pairs = seeds(["a cat"], n=2)
    assert pairs == [first[0], first[0] + 1, first[1], first[1] + 1]
