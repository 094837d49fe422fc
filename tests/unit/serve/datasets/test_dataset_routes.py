"""`/v1/datasets` over the whole application and a small real data set."""

import io
import json
import shutil
from functools import cache
from urllib.parse import quote

import pytest
from PIL import Image

from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions.branch import create_branch
from emoji_ldm.schemas import CAPTIONS, IMAGES
from emoji_ldm.serve.api_keys import new_key, write_keys
from emoji_ldm.serve.app import build_api
from emoji_ldm.serve.datasets import dataset_changes, dataset_pages
from emoji_ldm.serve.datasets.dataset_routes import dataset_routes
from emoji_ldm.store import Store
from tests.stored_dataset import NUM_IMAGES, caption_row, commit, config_of, fill_dataset
from tests.unit.serve.asgi_client import error_of, send
from tests.unit.serve.fake_backend import FakeBackend

ATTACK = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A store with a data set that no test changes, and the ids of its images."""
    store = Store(str(tmp_path_factory.mktemp("datasets") / "store"))
    return store, fill_dataset(store, titles=[ATTACK])


@pytest.fixture
def own(filled, tmp_path):
    """A copy of it that a test may change."""
    shutil.copytree(filled[0].uri, tmp_path / "store")
    return Store(str(tmp_path / "store")), filled[1]


def api_of(store, **settings):
    return build_api(FakeBackend(), ServeConfig(**settings), routers=[dataset_routes(config_of(store))])


@cache
def open_api(uri):
    """The application without keys, as a service has it for all requests."""
    return api_of(Store(uri))


def get(store, path, status=200, **query):
    response = send(open_api(store.uri), "GET", f"/v1/datasets{path}", params=query)
    assert response.status_code == status, response.text
    return response.json()


def put(store, image_id, caption, revision, version="main", status=200):
    body = json.dumps({"caption": caption, "revision": revision})
    response = send(open_api(store.uri), "PUT", f"/v1/datasets/{version}/images/{image_id}/caption", content=body)
    assert response.status_code == status, response.text
    return response.json() if status == 200 else error_of(response, status)


def test_versions_are_lines_tags_and_commits(filled):
    store, _ = filled
    found = get(store, "")["data"]
    assert [each["id"] for each in found if each["kind"] != "commit"] == ["main", "v1"]
    assert {"images@1", "images@2", "captions@1", "captions@2"} <= {each["id"] for each in found}
    assert next(each["message"] for each in found if each["id"] == "v1") == "first release"


def test_a_version_says_what_is_in_it(filled):
    store, _ = filled
    card = get(store, "/main")
    assert card["id"] == "images@2,captions@2,outcomes@1"
    assert {name: each["rows"] for name, each in card["tables"].items()} == {
        "images": NUM_IMAGES, "captions": NUM_IMAGES - 1, "outcomes": NUM_IMAGES + 3}  # fmt: skip
    assert card["outcomes"] == {"image": {"kept": NUM_IMAGES, "duplicate-of": 1, "dead": 1}, "page": {"listed": 1}}
    assert card["captions"] == {"metadata": {"ok": NUM_IMAGES - 1}}
    assert get(store, "/v1")["tables"]["images"]["rows"] == NUM_IMAGES - 2
    assert get(store, "/images@1,captions@1,outcomes@1")["tables"] == get(store, "/v1")["tables"]


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_pages_hold_every_image_once_with_captions_and_duplicates(filled, limit):
    store, ids = filled
    found, after, version = [], "", "main"
    while True:
        page = get(store, f"/{version}/images", limit=limit, after=after)
        assert len(page["data"]) <= limit
        found += page["data"]
        after, version = page["next"], page["version"]
        if not page["has_more"]:
            break
    assert [each["id"] for each in found] == ids
    first, last = found[0], found[-1]
    assert first["title"] == ATTACK and first["license"] == "CC-BY-4.0"
    assert first["captions"][0]["used"] and first["captions"][0]["attributes"] == {"expression": "happy"}
    assert first["duplicates"] == [{"url": "https://emoji.test/copy.png", "reason": "near duplicate"}]
    assert last["captions"] == [] and last["num_duplicates"] == 0
    assert get(store, f"/main/images/{ids[0]}") == first


def test_pages_of_a_version_stay_as_they_were_while_rows_are_added(own):
    store, ids = own
    page = get(store, "/main/images", limit=3)
    commit(store, IMAGES, [{"image_id": "new", "title": "new"}], "later")
    rest = get(store, f"/{page['version']}/images", limit=100, after=page["next"])["data"]
    assert [each["id"] for each in rest] == ids[3:]
    assert len(get(store, "/main/images", limit=100)["data"]) == NUM_IMAGES + 1


def test_images_are_searched_and_filtered(filled):
    store, ids = filled

    def found(**query):
        return [each["id"] for each in get(store, "/main/images", limit=100, **query)["data"]]

    assert found(search="ONERROR") == found(search=ids[0][:10]) == ids[:1]
    assert found(captions="uncaptioned") == ids[-1:]
    assert found(captions="captioned", tag="Blobs") == ids[:-1]
    assert found(captions="human") == found(tag="nothing") == []
    assert found(search="happy expression") == ids[:-1]


def test_a_search_reads_a_bounded_part_of_the_table_for_one_answer(filled, monkeypatch):
    store, ids = filled
    monkeypatch.setattr(dataset_pages, "MAX_SCANNED", 3)
    page = get(store, "/main/images", captions="uncaptioned")
    assert page["data"] == [] and page["has_more"]
    page = get(store, "/main/images", captions="uncaptioned", after=page["next"])
    page = get(store, "/main/images", captions="uncaptioned", after=page["next"])
    assert [each["id"] for each in page["data"]] == ids[-1:] and not page["has_more"]


def test_outcomes_are_paged_by_kind_and_outcome(filled):
    store, ids = filled
    dead = get(store, "/main/outcomes", outcome="dead")["data"]
    assert [(each["url"], each["reason"]) for each in dead] == [("https://emoji.test/gone.png", "404")]
    page = get(store, "/main/outcomes", kind="image", outcome="kept", limit=5)
    rest = get(store, "/main/outcomes", kind="image", outcome="kept", after=page["next"])
    assert [each["image_id"] for each in page["data"] + rest["data"]] == ids


def test_a_thumbnail_is_a_small_png_and_nothing_else(filled):
    store, ids = filled
    response = send(open_api(store.uri), "GET", f"/v1/datasets/main/images/{ids[0]}/thumbnail?size=32")
    assert response.headers["content-type"] == "image/png" and response.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in response.headers["content-security-policy"]
    with Image.open(io.BytesIO(response.content)) as image:
        assert image.format == "PNG" and max(image.size) == 32
    seen = {"If-None-Match": response.headers["etag"]}
    path = f"/v1/datasets/main/images/{ids[0]}/thumbnail?size=32"
    assert send(open_api(store.uri), "GET", path, headers=seen).status_code == 304


def test_what_another_writer_put_in_place_of_a_picture_is_not_served(own):
    store, _ = own
    commit(store, IMAGES, [{"image_id": "odd", "image": {"bytes": b"<script>alert(1)</script>", "path": "x"}},
                           {"image_id": "none"}], "odd")  # fmt: skip
    for name in ("odd", "none", "unknown"):
        response = send(open_api(store.uri), "GET", f"/v1/datasets/main/images/{name}/thumbnail")
        assert error_of(response, 404)["code"] == "image_not_found"


def test_the_changes_between_two_versions_are_shown_image_by_image(own):
    store, ids = own
    put(store, ids[1], "a person's caption", get(store, f"/main/images/{ids[1]}")["revision"])
    found = get(store, "/main/changes", since="v1", limit=2)
    assert found["kinds"] == {"added": 2, "removed": 0, "changed": 0, "captions": 1}
    assert {(each["id"], each["change"]) for each in found["data"]} == {(each, "added") for each in ids[-2:]}
    assert found["data"][0]["before"] is None and found["data"][0]["after"]["title"]
    [last] = get(store, "/main/changes", since="v1", limit=2, after=found["next"])["data"]
    assert (last["id"], last["change"], last["after"]["captions"][0]["caption"]) == (
        ids[1], "captions", "a person's caption")  # fmt: skip
    assert last["before"]["captions"][0]["engine"] == "metadata"
    assert [each["id"] for each in get(store, "/main/changes", since="v1", kind="captions")["data"]] == [ids[1]]
    assert get(store, "/v1/changes", since="main")["kinds"]["removed"] == 2


def test_versions_that_are_too_far_apart_are_left_to_the_command_line(filled, monkeypatch):
    monkeypatch.setattr(dataset_changes, "MAX_ROWS", 1)
    assert "emoji-ldm dataset diff" in get(filled[0], "/main/changes", 400, since="v1")["error"]["message"]


def test_a_caption_is_corrected_as_a_new_version_and_taken_back(own):
    store, ids = own
    before = get(store, f"/main/images/{ids[0]}")
    done = put(store, ids[0], "  a round  blob ", before["revision"])
    assert done["version"] == "images@2,captions@3,outcomes@1"
    human, machine = done["image"]["captions"]
    assert (human["caption"], human["engine"], human["used"]) == ("a round blob", "human", True)
    assert machine["caption"] == before["captions"][0]["caption"] and not machine["used"]
    # The past is as it was.
    assert get(store, f"/captions@2/images/{ids[0]}") == before
    assert get(store, "/main")["captions"]["human"] == {"ok": 1}
    undone = put(store, ids[0], "", done["image"]["revision"])
    assert undone["image"]["captions"] == before["captions"] and undone["version"].startswith("images@2,captions@4")
    # Nothing to take back: no version is made.
    again = put(store, ids[0], "", undone["image"]["revision"])
    assert again["version"] == undone["version"]


def test_of_two_corrections_of_one_caption_the_later_one_is_told(own):
    store, ids = own
    seen = get(store, f"/main/images/{ids[0]}")["revision"]
    put(store, ids[0], "mine", seen)
    error = put(store, ids[0], "theirs", seen, status=409)
    assert error["code"] == "caption_conflict" and "'mine'" in error["message"]
    assert get(store, f"/main/images/{ids[0]}")["captions"][0]["caption"] == "mine"
    # The caption of another image is nobody's conflict.
    put(store, ids[1], "other", get(store, f"/main/images/{ids[1]}")["revision"])


def test_a_correction_goes_on_when_a_job_commits_in_between(own, monkeypatch):
    store, ids = own
    seen, write, jobs = get(store, f"/main/images/{ids[0]}")["revision"], Table.write_file, iter([ids[1], ids[0]])

    def disturbed(table, rows):
        file = write(table, rows)
        if rows["engine"][0].as_py() == "human" and (image_id := next(jobs, None)):
            with monkeypatch.context() as calm:
                calm.setattr(Table, "write_file", write)
                commit(store, CAPTIONS, [caption_row(image_id, "by a job", "qwen")], f"job of {image_id}")
        return file

    monkeypatch.setattr(Table, "write_file", disturbed)
    # First a caption of another image comes in between, then one of this image.
    error = put(store, ids[0], "mine", seen, status=409)
    assert error["code"] == "caption_conflict" and next(jobs, None) is None
    engines = {each["engine"] for each in get(store, f"/main/images/{ids[0]}")["captions"]}
    assert engines == {"metadata", "qwen"}


def test_a_branch_is_corrected_apart_from_main(own):
    store, ids = own
    create_branch(store, "try", "v1")
    image = get(store, f"/try/images/{ids[0]}")
    done = put(store, ids[0], "on a branch", image["revision"], version="try")
    assert done["version"].startswith("try:images@")
    assert get(store, f"/{quote(done['version'])}/images/{ids[0]}")["captions"][0]["caption"] == "on a branch"
    assert len(get(store, f"/main/images/{ids[0]}")["captions"]) == 1


@pytest.mark.parametrize(
    "body",
    [{}, {"caption": "x"}, {"caption": 3, "revision": "x"}, {"caption": "x" * 1001, "revision": "x"}, [],
     {"caption": "x", "revision": "x", "more": 1}, {"caption": "a\0b", "revision": "x"}],
)  # fmt: skip
def test_bad_corrections_are_refused(filled, body):
    store, ids = filled
    path = f"/v1/datasets/main/images/{ids[0]}/caption"
    assert error_of(send(open_api(store.uri), "PUT", path, content=json.dumps(body)), 400)["message"]


def test_a_state_of_the_past_takes_no_correction(filled):
    store, ids = filled
    assert put(store, ids[0], "x", "y", version="v1", status=400)["code"] == "fixed_version"
    assert put(store, "unknown", "x", "y", status=404)["code"] == "image_not_found"


@pytest.mark.parametrize(
    "version", ["v2", "images@99", "2020-01-01", "7", "x" * 500, "%00", "nope:images@1", "images@1,x"]
)
def test_an_unknown_version_is_not_found_and_tells_nothing_of_the_store(filled, version):
    store, _ = filled
    error = get(store, f"/{version}", 404)["error"]
    assert error["code"] == "version_not_found" and store.uri not in error["message"]


def test_a_store_without_a_data_set_says_so(tmp_path):
    store = Store(str(tmp_path / "empty"))
    assert get(store, "/main", 404)["error"]["code"] == "no_dataset"
    assert [each["id"] for each in get(store, "")["data"]] == ["main"]


@pytest.mark.parametrize(
    "query", [{"after": "x"}, {"limit": 0}, {"limit": 101}, {"captions": "some"}, {"search": "x" * 201}]
)
def test_bad_queries_are_refused(filled, query):
    assert get(filled[0], "/main/images", 400, **query)["error"]["message"]


def test_keys_need_the_scope_data(filled, tmp_path):
    store, ids = filled
    path = str(tmp_path / "keys.json")
    (plain, one), (curator, two) = new_key("a", "interactive", 0, None), new_key("b", "interactive", 0, None, ("data",))
    write_keys(path, (one, two))
    api = api_of(store, keys=path)
    for url in ("/v1/datasets", "/v1/datasets/main/images", f"/v1/datasets/main/images/{ids[0]}/thumbnail"):
        assert send(api, "GET", url, headers={"Authorization": f"Bearer {curator}"}).status_code == 200
        error = error_of(send(api, "GET", url, headers={"Authorization": f"Bearer {plain}"}), 403)
        assert "data" in error["message"]
        error_of(send(api, "GET", url), 401)
    public = api_of(store, host="0.0.0.0", anonymous=True)
    error_of(send(public, "GET", "/v1/datasets"), 403)
