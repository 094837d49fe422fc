"""`/v1/runs` over the whole application: runs, a training so far, its pictures, and a checkpoint put into service."""

import io
import json
import os

import pytest
from PIL import Image

from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.dataset import checkpoint_aliases
from emoji_ldm.serve.api_keys import new_key, write_keys
from emoji_ldm.serve.app import build_api
from emoji_ldm.serve.model_catalog import ModelCatalog
from emoji_ldm.serve.registry_routes import registry_routes
from emoji_ldm.serve.runs.run_routes import run_routes
from emoji_ldm.store import Store
from tests.stored_dataset import RUN, STEPS, config_of, fill_training, log_line, write_log
from tests.unit.serve.asgi_client import error_of, send
from tests.unit.serve.fake_backend import FakeBackend


@pytest.fixture
def trained(tmp_path):
    """A store with a training, and the path of its checkpoint."""
    store = Store(str(tmp_path / "store"))
    return store, fill_training(store)


def api_of(store, **settings):
    catalog = ModelCatalog(config_of(store))
    return build_api(FakeBackend(), ServeConfig(**settings), routers=[run_routes(catalog), registry_routes(catalog)])


def get(store, path="", status=200):
    response = send(api_of(store), "GET", f"/v1/runs{path}")
    assert response.status_code == status, response.text
    return response.json()


def test_runs_are_listed_the_last_active_one_first(trained):
    store, _ = trained
    write_log(store, [log_line(0)], "older", "autoencoder")
    os.utime(store.path("runs", "older", "autoencoder", "losses.jsonl"), (1, 1))
    store.write(b"x", "runs", "No Run", "train", "losses.jsonl")
    store.write(b"x", "runs", "untrained", "report.html")
    [first, second] = get(store)["data"]
    assert (first["id"], first["sections"][0]["live"]) == (RUN, True)
    assert second["sections"] == [{"section": "autoencoder", "updated_at": 1, "live": False}]
    page = get(store, "?limit=1")
    assert page["has_more"] and get(store, f"?after={RUN}")["data"] == [second]
    error_of(send(api_of(store), "GET", "/v1/runs?after=x"), 400)
    assert get(Store(f"{store.uri}/nothing"))["data"] == []


def test_a_training_shows_curves_pictures_and_checkpoints(trained):
    store, path = trained
    checkpoint_aliases.set_alias(store, "best", path)
    store.write(b"x", "checkpoints", RUN, "unet", "step-00000400-00000000", "unfinished")
    found = get(store, f"/{RUN}/train")
    assert (found["step"], found["steps"], found["live"]) == (STEPS[-1], 1000, True)
    assert found["curves"]["loss"][-1] == [300, log_line(300)["loss"]] and len(found["curves"]["validation_loss"]) == 4
    assert found["samples"] == [*STEPS] and found["pairs"] == [] and found["memory_mb"] == [800, 820]
    assert found["checkpoints"] == [{"id": path, "step": 300, "aliases": ["best"], "models": []}]


def test_a_training_that_has_done_its_steps_is_not_live(tmp_path):
    store = Store(str(tmp_path))
    fill_training(store, planned=STEPS[-1])
    assert not get(store, f"/{RUN}/train")["live"]


def test_a_grid_is_a_png_and_nothing_else(trained):
    store, _ = trained
    response = send(api_of(store), "GET", f"/v1/runs/{RUN}/train/samples/100?size=64")
    assert response.headers["content-type"] == "image/png" and response.headers["x-content-type-options"] == "nosniff"
    with Image.open(io.BytesIO(response.content)) as image:
        assert image.size == (64, 32)
    store.write(b"<svg onload=alert(1)>", "runs", RUN, "train", "pairs", "step-00000100.png")
    for path in ("samples/101", "pairs/100"):
        assert get(store, f"/{RUN}/train/{path}", 404)["error"]["code"] == "picture_not_found"


@pytest.mark.parametrize(
    "path",
    ["x/train", "..%2f..%2fkeys/train", "demo-1/unet", "demo-1/train/other/1", "demo-1/train/samples/-1",
     "demo-1/train/samples/x", "demo-1/train/samples/1?size=1"],
)  # fmt: skip
def test_what_does_not_exist_is_refused(trained, path):
    assert send(api_of(trained[0]), "GET", f"/v1/runs/{path}").status_code in (400, 404)


def test_a_checkpoint_is_put_into_service_by_its_id(trained):
    store, path = trained
    api, body = api_of(store), json.dumps({"checkpoint": path})
    assert send(api, "PUT", "/v1/registry/demo-1-300", content=body).status_code == 200
    assert get(store, f"/{RUN}/train")["checkpoints"][0]["models"] == ["demo-1-300"]


def test_keys_need_the_scope_data(trained, tmp_path):
    path = str(tmp_path / "keys.json")
    (plain, one), (curator, two) = new_key("a", "interactive", 0, None), new_key("b", "bulk", 0, None, ("data",))
    write_keys(path, (one, two))
    api = api_of(trained[0], keys=path)
    assert send(api, "GET", "/v1/runs", headers={"Authorization": f"Bearer {curator}"}).status_code == 200
    error_of(send(api, "GET", f"/v1/runs/{RUN}/train", headers={"Authorization": f"Bearer {plain}"}), 403)
