"""`/v1/usage` over the whole application."""

import json

from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.serve.api_keys import new_key, write_keys
from emoji_ldm.serve.app import build_api
from emoji_ldm.serve.backend import Overloaded
from emoji_ldm.store import Store
from tests.unit.serve.asgi_client import call, error_of, send
from tests.unit.serve.fake_backend import FakeBackend


def test_a_key_sees_what_its_owner_has_used_and_what_is_left(path, tmp_path):
    (ann, one), (bob, two) = new_key("ann", "interactive", 100, None), new_key("bob", "interactive", 0, None)
    write_keys(path, (one, two))
    backend = FakeBackend()
    api = build_api(backend, ServeConfig(keys=path), store=Store(str(tmp_path / "store")))

    def ask(key, method="GET", where="/v1/usage", **body):
        content = json.dumps(body) if body else None
        return send(api, method, where, content=content, headers={"Authorization": f"Bearer {key}"})

    ask(ann, "POST", "/v1/images/generations", prompt="a", n=7)
    backend.error = Overloaded()
    ask(ann, "POST", "/v1/images/generations", prompt="a", n=5)
    report = ask(ann).json()
    assert (report["name"], report["images_per_minute"], report["images_left"]) == ("ann", 100, 93)
    assert [(day["images"], day["bulk_images"], day["requests"]) for day in report["days"]] == [(7, 0, 3)]
    assert report["resets_at"] % 60 == 0
    other = ask(bob).json()
    assert other["images_per_minute"] is None and other["days"][0]["images"] == 0


def test_a_service_without_keys_counts_nobody():
    assert error_of(call(FakeBackend(), "GET", "/v1/usage"), 404)["code"] == "no_keys"
