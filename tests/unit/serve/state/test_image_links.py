"""`response_format=url`: links that lead to the image, for an hour, for whoever has them and nobody else."""

import json
import time
from urllib.parse import urlsplit

import pytest

from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.serve.api_keys import new_key, write_keys
from emoji_ldm.serve.app import build_api
from emoji_ldm.store import Store
from tests.unit.serve.asgi_client import error_of, files_of, send
from tests.unit.serve.fake_backend import FakeBackend


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def draw(api, headers=None, **body):
    body = {"prompt": "a", "seed": 3, **body}
    return send(api, "POST", "/v1/images/generations", content=json.dumps(body), headers=headers or {})


def path_of(url):
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


@pytest.mark.parametrize(("kind", "media_type"), [("png", "image/png"), ("webp", "image/webp"), ("jpeg", "image/jpeg")])
def test_links_lead_to_the_files_that_base64_would_hold(store, kind, media_type):
    api = build_api(FakeBackend(), store=store)
    linked = draw(api, n=3, response_format="url", output_format=kind).json()["data"]
    whole = files_of(draw(api, n=3, output_format=kind))
    assert [each["seed"] for each in linked] == [3, 4, 5] and all("b64_json" not in each for each in linked)
    for link, data in zip(linked, whole, strict=True):
        response = send(api, "GET", path_of(link["url"]))
        assert response.content == data and response.headers["content-type"] == media_type
        assert response.headers["x-content-type-options"] == "nosniff"


def test_a_link_needs_no_key_and_works_in_another_process(store, path):
    secret, key = new_key("ann", "interactive", 0, None)
    write_keys(path, (key,))
    settings = ServeConfig(keys=path)
    url = draw(build_api(FakeBackend(), settings, store=store), {"Authorization": f"Bearer {secret}"},
               response_format="url").json()["data"][0]["url"]  # fmt: skip
    assert send(build_api(FakeBackend(), settings, store=store), "GET", path_of(url)).status_code == 200


def test_links_cannot_be_made_up_and_end(store, monkeypatch):
    api = build_api(FakeBackend(), store=store)
    path = path_of(draw(api, response_format="url").json()["data"][0]["url"])
    name, signature = path.split("?signature=")
    later = name.replace(name.rpartition("/")[2][:10], str(int(time.time()) + 9999))
    for bad in (name, f"{name}?signature=", f"{later}?signature={signature}", f"{name}x?signature={signature}",
                f"/v1/links/..%2f..%2fkeys?signature={signature}", f"{name}?signature=\u00e9"):  # fmt: skip
        assert send(api, "GET", bad).status_code in (403, 404), bad
    assert error_of(send(api, "GET", f"{name}?signature=0"), 403)["code"] == "bad_signature"
    now = time.time()
    monkeypatch.setattr("emoji_ldm.serve.state.image_links.time.time", lambda: now + 3601)
    assert error_of(send(api, "GET", path), 404)["code"] == "link_expired"


def test_the_url_has_the_name_and_the_scheme_that_the_client_used(store):
    api = build_api(FakeBackend(), store=store)
    assert draw(api, response_format="url").json()["data"][0]["url"].startswith("http://test/v1/links/")
    proxied = draw(api, {"x-forwarded-proto": "https"}, response_format="url").json()["data"][0]["url"]
    assert proxied.startswith("https://test/v1/links/")
    forged = draw(api, {"x-forwarded-proto": "javascript"}, response_format="url").json()["data"][0]["url"]
    assert forged.startswith("http://test/")


def test_where_links_are_impossible_they_are_refused_before_anything_is_drawn(store):
    backend = FakeBackend()
    for api, body in ((build_api(backend), {}), (build_api(backend, store=store), {"stream": True})):
        assert error_of(draw(api, response_format="url", **body), 400)["param"] == "response_format"
    assert not backend.tasks


def test_the_secret_is_made_once(store):
    first, second = (draw(build_api(FakeBackend(), store=store), response_format="url") for _ in range(2))
    assert first.status_code == second.status_code == 200
    assert len(store.read("keys", "links.secret")) == 32
