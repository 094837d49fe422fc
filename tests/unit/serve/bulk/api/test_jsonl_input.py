"""Tests of uploaded JSONL."""

import json

import pytest


@pytest.mark.parametrize(
    ("bad", "param", "text"),
    [
        ('{"custom_id": "x", "prompt": "a", "steps": 0}', "num_inference_steps", "greater"),
        ('{"custom_id": "x", "prompt": ', None, "JSON"),
        ('{"prompt": "a"}', "custom_id", "custom_id"),
        ('{"custom_id": "7", "prompt": "a"}', "custom_id", "line 8 already"),
        ("[1]", None, "object"),
        (r'{"custom_id": "\ud83d", "prompt": "a"}', "custom_id", "half of a surrogate pair"),
        (r'{"custom_id": "x", "prompt": "\ud83d"}', "prompt", "half of a surrogate pair"),
        ('{"custom_id": "x", "n": 2}', "prompt", "missing"),
    ],
)  # fmt: skip
def test_an_invalid_line_among_many_is_named_and_leaves_nothing_in_the_store(service, bad, param, text):
    good = [json.dumps({"custom_id": str(number), "prompt": "a cat"}) for number in range(500)]
    file = "\n".join([*good[:399], bad, *good[399:]])
    response = service.call("POST", "/v1/emoji-sets", content=file, headers={"content-type": "application/jsonl"})
    error = response.json()["error"]
    assert response.status_code == 400 and error["message"].startswith("line 400: ") and text in error["message"]
    assert error["param"] == param and not service.files()
