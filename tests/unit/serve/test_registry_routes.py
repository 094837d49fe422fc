"""`/v1/registry` over the whole application: who may change the models, and what is answered."""

import json

import pytest

from emoji_ldm.config import build
from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.generate.checkpoint_resolver import LORA_FILE
from emoji_ldm.serve.api_keys import new_key, write_keys
from emoji_ldm.serve.app import build_api
from emoji_ldm.serve.model_catalog import ModelCatalog
from emoji_ldm.serve.registry_routes import registry_routes
from tests.unit.serve.asgi_client import error_of, send
from tests.unit.serve.fake_backend import FakeBackend


@pytest.fixture
def catalog(tmp_path):
    catalog = ModelCatalog(build({"run": "tiny", "store": str(tmp_path / "store")}, where="test"))
    catalog.store.write(b"weights", "adapters", "outline", LORA_FILE)
    return catalog


def api_of(catalog, **settings):
    return build_api(FakeBackend(), ServeConfig(**settings), routers=[registry_routes(catalog)])


def put(api, name, headers=None, **body):
    return send(api, "PUT", f"/v1/registry/{name}", content=json.dumps(body), headers=headers or {})


def test_a_model_is_registered_listed_changed_and_removed(catalog):
    api = api_of(catalog)
    made = put(api, "outline", adapter="adapters/outline").json()
    assert (made["id"], made["kind"], made["pinned"]) == ("outline", "adapter", False)
    assert str(catalog.store.uri) not in json.dumps(made)
    assert put(api, "outline", adapter="adapters/outline", pinned=True).json()["pinned"]
    assert [each["pinned"] for each in send(api, "GET", "/v1/registry").json()["data"]] == [True]
    assert send(api, "DELETE", "/v1/registry/outline").json()["deleted"]
    assert error_of(send(api, "DELETE", "/v1/registry/outline"), 404)["code"] == "model_not_found"


@pytest.mark.parametrize(
    "body",
    [{}, {"checkpoint": "a", "adapter": "b"}, {"adapter": 3}, {"adapter": "x", "more": 1}, {"adapter": "nowhere"}],
)
def test_bad_requests_are_refused(catalog, body):
    assert error_of(put(api_of(catalog), "outline", **body), 400)["message"]
    assert error_of(send(api_of(catalog), "PUT", "/v1/registry/a", content="[]"), 400)


def test_a_key_needs_the_scope(catalog, path):
    (plain, one), (manager, two) = new_key("a", "interactive", 0, None), new_key("b", "bulk", 0, None, ("models",))
    write_keys(path, (one, two))
    api = api_of(catalog, keys=path)

    def answer(key):
        return put(api, "outline", {"Authorization": f"Bearer {key}"}, adapter="adapters/outline")

    assert "models" in error_of(answer(plain), 403)["message"] and answer(manager).status_code == 200
    assert send(api, "GET", "/v1/registry", headers={"Authorization": f"Bearer {plain}"}).status_code == 200


def test_strangers_cannot_change_the_models_of_a_service_without_keys(catalog):
    api = api_of(catalog, host="0.0.0.0", anonymous=True)
    assert error_of(put(api, "outline", adapter="adapters/outline"), 403)["code"] == "insufficient_permissions"
    assert error_of(send(api, "DELETE", "/v1/registry/outline"), 403)
    assert send(api, "GET", "/v1/registry").status_code == 200
