"""Packs of sets."""

import io
import json
import zipfile

import numpy as np
import pytest

from tests.unit.packs.pictures import face_png, png
from tests.unit.serve.asgi_client import error_of


@pytest.fixture
def finished(service, monkeypatch):
    """The id of a set of three finished images."""
    monkeypatch.setattr("tests.unit.serve.bulk.instant_backend.png_of", lambda request: face_png(model_key="k1"))
    job_id = service.create(prompts=["a happy blob", "a sad cat", "a green dog"], seed=1)
    service.run_jobs()
    return job_id


def pack(service, job_id, owner="ann", **body):
    return service.call("POST", f"/v1/emoji-sets/{job_id}/pack", owner, json={"target": "slack", **body})


@pytest.mark.slow
def test_finished_images_become_a_pack_named_by_their_prompts(service, finished):
    response = pack(service, finished, name="Blobs")
    assert response.status_code == 200, response.text
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        names = {name for name in archive.namelist() if name.startswith("emoji/")}
        assert names == {"emoji/happy_blob.png", "emoji/sad_cat.png", "emoji/green_dog.png"}
        source = json.loads(archive.read("manifest.json"))["emoji"][0]["source"]
    assert source["prompt"] == "a happy blob" and source["seed"]


@pytest.mark.slow
def test_an_image_that_shows_nothing_is_left_out_unless_it_is_named(service, monkeypatch):
    drawn = {"a cat": face_png(), "nothing": png(np.zeros((16, 16, 4), np.uint8))}
    monkeypatch.setattr("tests.unit.serve.bulk.instant_backend.png_of", lambda request: drawn[request.prompt])
    job_id = service.create(prompts=["a cat", "nothing"])
    service.run_jobs()
    with zipfile.ZipFile(io.BytesIO(pack(service, job_id).content)) as archive:
        assert [*json.loads(archive.read("manifest.json"))["skipped"].values()] == ["no pixel is visible"]
    assert "no pixel is visible" in error_of(pack(service, job_id, items=["00000001"]), 400)["message"]


@pytest.mark.slow
def test_only_the_named_items_are_packed(service, finished):
    response = pack(service, finished, items=["00000002", "00000000"])
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert {"emoji/happy_blob.png", "emoji/green_dog.png"} < {*archive.namelist()}
        assert "emoji/sad_cat.png" not in archive.namelist()


@pytest.mark.parametrize(
    ("body", "status", "param", "says"),
    [
        ({"items": ["00000009"]}, 404, "items", "no finished image '00000009'"),
        ({"target": "slak"}, 400, None, "did you mean 'slack'"),
        ({"colour": "red"}, 400, "colour", "is refused"),
        ({"outline": "3"}, 400, "outline", "is refused"),
    ],
)
def test_a_wrong_request_is_refused_with_its_field(service, finished, body, status, param, says):
    error = error_of(pack(service, finished, **body), status)
    assert error["param"] == param and says in error["message"]


def test_a_set_without_finished_images_and_one_of_another_owner_are_not_found(service):
    job_id = service.create(prompts=["a cat"])
    assert error_of(pack(service, job_id), 404)["code"] == "nothing_yet"
    assert error_of(pack(service, job_id, "bob"), 404)["code"] == "not_found"
