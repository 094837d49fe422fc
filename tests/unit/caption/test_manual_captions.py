import pytest

from emoji_ldm.caption.manual_captions import commit_manual_captions
from emoji_ldm.config import Config
from emoji_ldm.dataset.lineage import Lineage, RunInfo
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import ConfigError
from emoji_ldm.latents.cache import good_captions
from emoji_ldm.schemas import CAPTIONS, IMAGES
from emoji_ldm.store import Store
from tests.emoji_images import blobs, fill_images

FORMED = "Blob emoji with a round head, big eyes, wide mouth, red skin color, waving, with a white background."


@pytest.fixture
def store(tmp_path):
    store = Store(str(tmp_path / "store"))
    fill_images(store, blobs(3))
    return store


@pytest.fixture
def override(store, tmp_path):
    def run(text):
        (tmp_path / "people.csv").write_text(text, encoding="utf-8")
        return commit_manual_captions(
            str(tmp_path / "people.csv"),
            store,
            Lineage(RunInfo("default", Config(store=store.uri).to_json()), "caption", {}),
        )

    return run


def images_of(store):
    return sorted(Table(store, IMAGES).read(["image_id", "source_url"]).to_pylist(), key=lambda row: row["image_id"])


def test_people_win_over_engines_and_the_same_file_again_changes_nothing(store, override):
    first, second, _ = images_of(store)
    table = Table(store, CAPTIONS)
    engine = dict.fromkeys(CAPTIONS.schema.names, "") | {"number": 0, "attempts": 1, "status": "ok"}
    rows = [engine | {"caption_id": row["image_id"], "image_id": row["image_id"], "caption": "By an engine."}
            for row in images_of(store)]  # fmt: skip
    table.commit([table.write_file(CAPTIONS.schema.empty_table().from_pylist(rows, CAPTIONS.schema))],
                 app_id="engine", metadata={})  # fmt: skip
    text = f'image_id,caption,source_url\n{first["image_id"]},"{FORMED}",\n,A blob.,{second["source_url"]}\n'
    assert override(text) == 2
    found = good_captions(Table(store, IMAGES), Table(store, CAPTIONS))
    assert list(found.values()) == [[FORMED], ["A blob."], ["By an engine."]]
    human = {row["caption"]: row for row in Table(store, CAPTIONS).read().to_pylist() if row["engine"] == "human"}
    assert (human[FORMED]["eyes"], human["A blob."]["eyes"]) == ("big", "")
    version = Table(store, CAPTIONS).version
    assert override(text) == 0
    assert Table(store, CAPTIONS).version == version


def test_a_caption_may_be_changed_and_changed_back_and_stays_one_row(store, override):
    image_id = images_of(store)[0]["image_id"]
    for caption in ("One.", "Two.", "One.", "Two."):
        assert override(f"image_id,caption\n{image_id},{caption}\n") == 1
        assert Table(store, CAPTIONS).read(["caption"])["caption"].to_pylist() == [caption]


@pytest.mark.parametrize(("text", "expected"), [
    ("", "line 1: columns are missing; needed are caption, and image_id or source_url"),
    ("id,caption\n1,x\n", "line 1: columns are id, caption; needed"),
    ("image_id,caption\nnope,x\nnada,y\n", "line 2: 2 images are not in the data set, the first is 'nope'"),
    ("image_id,caption\nID,\n", "line 2: names no caption; fill it in"),
    ("image_id,caption\n,x\n", "line 2: names no image"),
    ("image_id,caption\nID,x\nID,y\n", "line 3: ID has a caption in line 2 already"),
    ("image_id,caption\nID,a, b and c\n", "line 2: not 2 fields; quote a caption that has commas"),
])  # fmt: skip
def test_a_bad_file_is_one_clear_line(store, override, text, expected):
    image_id = images_of(store)[0]["image_id"]
    with pytest.raises(ConfigError) as caught:
        override(text.replace("ID", image_id))
    assert expected.replace("ID", image_id) in str(caught.value)
    assert "people.csv" in str(caught.value)
    assert not Table(store, CAPTIONS).exists


def test_a_missing_file_is_named(store):
    with pytest.raises(ConfigError, match=r"caption\.overrides='/nowhere\.csv' cannot be read"):
        commit_manual_captions(
            "/nowhere.csv", store, Lineage(RunInfo("default", Config(store=store.uri).to_json()), "caption", {})
        )
