"""Nearest training images: of the data set version that the model was trained on, with their licences."""

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from emoji_ldm.config import build
from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.dataset import checkpoints
from emoji_ldm.dataset.table import Table
from emoji_ldm.images.fingerprint import fingerprint
from emoji_ldm.schemas import IMAGES, LATENTS
from emoji_ldm.serve.app import build_api
from emoji_ldm.serve.model_catalog import ModelCatalog
from emoji_ldm.serve.nearest_images import nearest_routes
from emoji_ldm.store import Store
from tests.emoji_images import blobs
from tests.unit.serve.asgi_client import error_of, send
from tests.unit.serve.fake_backend import FakeBackend

NUM_IMAGES = 12


def png_of(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(stream, "PNG")
    return stream.getvalue()


def commit(store, spec, rows):
    table = Table(store, spec)
    table.commit([table.write_file(pa.Table.from_pylist(rows, schema=spec.schema))], app_id=str(len(rows)), metadata={})
    return table.version


@pytest.fixture(scope="module")
def pictures():
    return [np.asarray(Image.open(io.BytesIO(each.data)).convert("RGBA")) for each in blobs(NUM_IMAGES)]


@pytest.fixture(scope="module")
def store(tmp_path_factory, pictures):
    """A store whose newest checkpoint was trained on all pictures but the last."""
    store = Store(str(tmp_path_factory.mktemp("nearest") / "store"))
    rows = [{**dict.fromkeys(IMAGES.schema.names), "image_id": f"{index:02}", "title": f"emoji {index}",
             "image": {"bytes": png_of(pixels), "path": "x.png"}, "fingerprint": fingerprint(pixels),
             "tags": ["Blobs", "license:CC-BY-4.0"] if index else ["Blobs"], "source_url": f"https://e.org/{index}"}
            for index, pixels in enumerate(pictures)]  # fmt: skip
    commit(store, IMAGES, rows)
    latents = [{"latent_id": f"l{each['image_id']}", "image_id": each["image_id"], "vae_key": "v", "shape": [1, 1, 1],
                "mean": b"xx", "logvar": b"xx"} for each in rows[:-1]]  # fmt: skip
    version = commit(store, LATENTS, latents)
    path = f"checkpoints/demo-1/unet/{checkpoints.folder_name(1)}"
    store.write(b"{}", path, "pipeline", "model_index.json")
    checkpoints.publish_checkpoint(store, path, {"step": 1, "versions": {"latents": version}})
    commit(store, LATENTS, [{**latents[0], "latent_id": "later", "image_id": rows[-1]["image_id"]}])
    return store


def api_of(store, **values):
    catalog = ModelCatalog(build({"run": "demo-1", "store": store.uri, **values}, where="test"))
    return build_api(backend := FakeBackend(), ServeConfig(), routers=[nearest_routes(catalog, backend)])


def ask(api, pixels, **fields):
    return send(api, "POST", "/v1/images/nearest", files={"image": ("a.png", png_of(pixels))}, data=fields)


def test_a_training_image_is_its_own_nearest_and_an_enlarged_or_mirrored_one_too(store, pictures):
    api = api_of(store)
    for index in (1, 5):
        large = np.asarray(Image.fromarray(pictures[index], "RGBA").resize((150, 150), Image.Resampling.LANCZOS))
        for pixels, mirrored in ((pictures[index], False), (large, False), (pictures[index][:, ::-1].copy(), True)):
            answer = ask(api, pixels, n="3").json()
            first, *rest = answer["data"]
            assert first["title"] == f"emoji {index}" and first["similarity"] > 0.95
            assert first["mirrored"] == mirrored or first["similarity"] > 0.99, "some emoji are symmetrical"
            assert len(rest) == 2 and all(each["similarity"] <= first["similarity"] for each in rest)
            assert (first["license"], first["source_url"]) == ("CC-BY-4.0", f"https://e.org/{index}")
    assert answer["num_images"] == NUM_IMAGES - 1


def test_images_that_came_after_the_training_are_not_among_them(store, pictures):
    found = ask(api_of(store), pictures[-1], n="20").json()["data"]
    assert f"emoji {NUM_IMAGES - 1}" not in {each["title"] for each in found} and len(found) == NUM_IMAGES - 1
    assert next(each for each in found if each["title"] == "emoji 0")["license"] is None


@pytest.mark.parametrize("serve", [{"checkpoint": "starter"}, {"checkpoint": "alias:none"}, {"checkpoint": "/tmp/x"}])
def test_a_model_without_known_training_images_is_answered_clearly(store, pictures, serve):
    error = error_of(ask(api_of(store, serve=serve), pictures[0]), 404)
    assert error["code"] == "no_training_data" and "packaged model" in error["message"]


def test_an_empty_store_is_answered_clearly(tmp_path, pictures):
    error = error_of(ask(api_of(Store(str(tmp_path / "empty"))), pictures[0]), 404)
    assert error["code"] == "no_training_data"


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"n": "0"}, "n"), ({"n": "21"}, "n"), ({"n": "x"}, "n"), ({"n": "9" * 5000}, "n"), ({"k": "1"}, "k")],
)
def test_bad_fields_are_refused(store, pictures, fields, param):
    assert error_of(ask(api_of(store), pictures[0], **fields), 400)["param"] == param


def test_what_is_no_image_or_model_is_refused(store, pictures):
    api = api_of(store)
    broken = send(api, "POST", "/v1/images/nearest", files={"image": ("a.png", b"nothing")})
    assert error_of(broken, 400)["param"] == "image"
    assert error_of(ask(api, pictures[0], model="nobody"), 404)["code"] == "model_not_found"
