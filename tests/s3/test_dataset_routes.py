"""`/v1/datasets` and `/v1/runs` over a data set and a training on S3: read, search, compare, correct, join, watch."""

import json

import pytest

from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.dataset.table import Table
from emoji_ldm.schemas import CAPTIONS
from emoji_ldm.serve.app import build_api
from emoji_ldm.serve.datasets import caption_overrides
from emoji_ldm.serve.datasets.dataset_routes import dataset_routes
from emoji_ldm.serve.model_catalog import ModelCatalog
from emoji_ldm.serve.runs.run_routes import run_routes
from emoji_ldm.store import Store
from tests.stored_dataset import NUM_IMAGES, RUN, STEPS, config_of, fill_dataset, grid_png, log_line, write_log
from tests.unit.serve.asgi_client import send
from tests.unit.serve.fake_backend import FakeBackend

pytestmark = pytest.mark.slow


@pytest.fixture
def ask(s3_uri):
    """Requests to a service over a data set and a training on S3; also the store and the ids of the images."""
    store = Store(s3_uri)
    ids = fill_dataset(store)
    write_log(store, [log_line(step) for step in range(0, STEPS[-1] + 1, 10)])
    store.write(grid_png(100), "runs", RUN, "train", "samples", "step-00000100.png")
    config = config_of(store)
    api = build_api(FakeBackend(), ServeConfig(), routers=[dataset_routes(config), run_routes(ModelCatalog(config))])

    def request(path, method="GET", status=200, **options):
        response = send(api, method, f"/v1/{path}", **options)
        assert response.status_code == status, response.text
        return response

    return request, store, ids


def test_a_data_set_on_s3_is_read_searched_corrected_and_compared(ask, monkeypatch):
    request, store, ids = ask
    monkeypatch.setattr(caption_overrides, "MAX_SMALL_FILES", 1)
    assert [each["id"] for each in request("datasets").json()["data"] if each["kind"] != "commit"] == ["main", "v1"]
    assert request("datasets/main").json()["outcomes"]["image"]["kept"] == NUM_IMAGES
    page = request("datasets/main/images?limit=3").json()
    rest = request(f"datasets/{page['version']}/images?after={page['next']}").json()
    assert [each["id"] for each in page["data"] + rest["data"]] == ids
    thumbnail = request(f"datasets/{page['version']}/images/{ids[0]}/thumbnail?size=32")
    assert thumbnail.content.startswith(b"\x89PNG")
    assert [each["id"] for each in request("datasets/main/images?captions=uncaptioned").json()["data"]] == ids[-1:]
    for image_id in ids[:3]:
        revision = request(f"datasets/main/images/{image_id}").json()["revision"]
        body = json.dumps({"caption": f"by hand {image_id[:4]}", "revision": revision})
        request(f"datasets/main/images/{image_id}/caption", "PUT", content=body)
    answer = request(f"datasets/main/images/{ids[2]}/caption", "PUT", 409, content=body)
    assert answer.json()["error"]["code"] == "caption_conflict"
    found = request("datasets/main/images?search=BY HAND&captions=human").json()["data"]
    assert [each["id"] for each in found] == ids[:3]
    assert request("datasets/main/changes?since=v1").json()["kinds"]["captions"] == 3
    history = [entry["operation"] for entry in Table(store, CAPTIONS).history()]
    assert history.count("MERGE") == 3


def test_a_training_on_s3_is_watched(ask):
    request, store, _ = ask
    assert [each["id"] for each in request("runs").json()["data"]] == [RUN]
    assert request(f"runs/{RUN}/train").json()["step"] == STEPS[-1]
    assert request(f"runs/{RUN}/train/samples/100?size=64").content.startswith(b"\x89PNG")
    write_log(store, [log_line(step) for step in range(0, STEPS[-1] + 20, 10)])
    assert request(f"runs/{RUN}/train").json()["step"] == STEPS[-1] + 10
