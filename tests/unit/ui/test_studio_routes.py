"""The files of the studio: served to everybody, compressed, asked again, under a strict policy; and their texts."""

import gzip
import json
import re
import tomllib

import pytest

from emoji_ldm.config import ServeConfig
from emoji_ldm.serve.api_keys import new_key, write_keys
from emoji_ldm.serve.app import build_api
from emoji_ldm.ui.studio_routes import MEDIA_TYPES, STATIC_FOLDER, studio_files, studio_routes
from tests.emoji_server import ROOT
from tests.unit.serve.asgi_client import error_of, send
from tests.unit.serve.fake_backend import FakeBackend

MAX_COMPRESSED_BYTES = 300_000
MAX_LINES = 300
SOURCES = sorted(path for path in STATIC_FOLDER.rglob("*") if path.is_file())
SCRIPTS = [path for path in SOURCES if path.suffix == ".js"]


@pytest.fixture
def api():
    return build_api(FakeBackend(), routers=[studio_routes()])


def get(api, path, **headers):
    return send(api, "GET", path, headers=headers)


def test_the_page_is_at_the_root_under_a_policy_without_inline_scripts_and_styles(api):
    response = get(api, "/")
    assert response.status_code == 200 and "text/html" in response.headers["content-type"]
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and "style-src 'self'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy and "*" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"


def test_the_page_has_no_inline_script_style_or_handler():
    page = (STATIC_FOLDER / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=|javascript:", page)


@pytest.mark.parametrize("name", sorted(studio_files()))
def test_every_file_comes_with_its_type_and_the_policy(api, name):
    response = get(api, f"/studio/{name}")
    assert response.status_code == 200
    assert response.headers["content-type"] == MEDIA_TYPES[f".{name.rpartition('.')[2]}"]
    assert "content-security-policy" in response.headers


def test_a_file_that_the_browser_has_is_not_sent_again(api):
    first = get(api, "/studio/js/main.js")
    again = get(api, "/studio/js/main.js", **{"If-None-Match": f"W/{first.headers['etag']}"})
    assert again.status_code == 304 and not again.content
    assert get(api, "/studio/js/main.js", **{"If-None-Match": '"other"'}).status_code == 200


def test_a_browser_that_cannot_decompress_gets_the_plain_file(api):
    plain = get(api, "/studio/js/main.js", **{"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    packed = get(api, "/studio/js/main.js", **{"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip" and packed.content == plain.content  # httpx decompresses


@pytest.mark.parametrize("path", ["/studio/../auth.py", "/studio/%2e%2e/studio_routes.py", "/studio/", "/studio/js"])
def test_only_files_of_the_studio_are_served(api, path):
    error_of(get(api, path), 404)


def test_the_page_needs_no_key_but_the_api_does(tmp_path):
    secret, key = new_key("ann", "interactive", 0, None)
    write_keys(str(tmp_path / "keys.json"), (key,))
    api = build_api(FakeBackend(), ServeConfig(keys=str(tmp_path / "keys.json")), routers=[studio_routes()])
    assert get(api, "/").status_code == get(api, "/studio/js/main.js").status_code == 200
    error_of(get(api, "/v1/models"), 401)
    assert get(api, "/v1/models", Authorization=f"Bearer {secret}").status_code == 200


def test_the_studio_is_small():
    assert sum(len(file.compressed) for file in studio_files().values()) < MAX_COMPRESSED_BYTES


def test_compressed_files_are_equal_in_all_replicas():
    one, other = studio_files(), studio_files()
    assert {name: file.compressed for name, file in one.items()} == {
        name: file.compressed for name, file in other.items()
    }
    assert gzip.decompress(one["index.html"].compressed) == one["index.html"].data


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_holds_one_idea_and_builds_no_markup_from_text(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)


def test_all_files_are_in_the_wheel():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["emoji_ldm"]
    package = ROOT / "emoji_ldm"
    packaged = {path for pattern in patterns for path in package.glob(pattern)}
    assert set(SOURCES) <= packaged


def values_in(text):
    return set(re.findall(r"\{\w+\}", text))


def dictionaries():
    return {path.stem: json.loads(path.read_text()) for path in (STATIC_FOLDER / "i18n").glob("*.json")}


def test_every_language_has_every_text_with_the_same_values():
    texts = dictionaries()
    assert {"en", "vi"} <= set(texts)
    for language, own in texts.items():
        assert set(own) == set(texts["en"]), language
        for key, text in own.items():
            assert text.strip() and values_in(text) == values_in(texts["en"][key]), key


def test_every_text_that_scripts_and_page_name_exists():
    known = {re.sub(r"\.(one|other)$", "", key) for key in dictionaries()["en"]}
    named = {key for path in SCRIPTS for key in re.findall(r"\bt\('([\w.]+)'", path.read_text())}
    named |= set(re.findall(r'data-t(?:-label)?="([\w.]+)"', (STATIC_FOLDER / "index.html").read_text()))
    assert named and named <= known
