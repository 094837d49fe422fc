"""The starter's data set: made by the import of the project, tagged, and read back pixel by pixel."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions.refs import tags
from emoji_ldm.schemas import CAPTIONS, IMAGES
from emoji_ldm.store import Store
from infra.starter.build_data import TAG, build_data
from infra.starter.captions import captions_of, recolored_captions
from infra.starter.drawings import METADATA, merge_equal
from infra.starter.icons import STYLES, Concept, Icon
from infra.starter.recolor import leading_hue, recolor
from infra.starter.render import premultiplied, render, straight

NAMES = ("cat", "dog", "owl", "bee", "moose", "frog")


def icon(style, name, fill, group=3):
    """A disc of its own size with a white eye, so that no two names look the same."""
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32" width="32" height="32">'
        f'<circle cx="16" cy="16" r="{7 + len(name) + len(style) / 8}" fill="{fill}"/>'
        f'<circle cx="12" cy="12" r="{1 + ord(name[0]) % 5}" fill="#fff"/></svg>'
    )
    concept = Concept(f"1F{sum(map(ord, name)):03X}", name, ["animal", f"{name} face"], [f"a {name}"], group)
    return Icon(style, name, concept, svg, f"@iconify-json/{style}@1.0.0")


@pytest.fixture(scope="module")
def icons():
    drawn = [icon(style, name, "#e03020") for style in ("noto", "twemoji") for name in NAMES]
    # The same drawing under another name, as astronaut and man astronaut are in some sets.
    twin = Concept("1F999", "tom cat", ["male"], [], 3)
    return [*drawn, Icon("noto", "tom-cat", twin, drawn[0].svg, drawn[0].package)]


@pytest.fixture(scope="module")
def built(icons, tmp_path_factory):
    folder = tmp_path_factory.mktemp("starter")
    return folder, build_data(icons, folder)


def test_the_tagged_version_gives_back_every_pixel_caption_and_fact(built):
    folder, num = built
    listed = [json.loads(line) for line in (folder / "drawings" / METADATA).read_text().splitlines()]
    pictures, records = np.load(folder / "pictures.npy"), json.loads((folder / "records.json").read_text())
    assert num == len(listed) == len(pictures) == len(records) and 12 < num <= 12 * 4
    written = {row["source_url"]: row for row in listed}
    for picture, record in zip(pictures, records, strict=True):
        row = written[record["source_url"]]
        assert record["captions"] == row["captions"] and record["label"] == row["title"]
        file = np.asarray(Image.open(folder / "drawings" / row["file_name"]))
        np.testing.assert_array_equal(picture, premultiplied(file))
    kinds = [record["recolored"] for record in records]
    assert not kinds[0] and any(kinds)
    assert {record["split"] for record in records if record["recolored"]} == {"train"}


def test_a_drawing_is_its_rendering_and_its_copies_follow_it_with_their_colour_in_the_captions(built, icons):
    folder, _ = built
    pictures, records = np.load(folder / "pictures.npy"), json.loads((folder / "records.json").read_text())
    by_name = {(one.style, one.slug): one for one in icons}
    original = None
    for picture, record in zip(pictures, records, strict=True):
        if not record["recolored"]:
            original = picture
            np.testing.assert_array_equal(picture, render(by_name[record["style"], record["slug"]].svg))
        else:
            np.testing.assert_array_equal(picture, recolor(original, leading_hue(original)[0], record["color"]))
            assert all(record["color"] in caption for caption in record["captions"])


def test_every_image_states_its_licence_author_and_source(built):
    folder, num = built
    store = Store(str(folder / "store"))
    rows = Table(store, IMAGES).read(["tags", "source_url", "page_url"]).to_pylist()
    assert len(rows) == num
    for row in rows:
        style = next(tag for tag in row["tags"] if tag.startswith("style:")).removeprefix("style:")
        words, licence, author = STYLES[style]
        assert row["tags"][0] == words and {f"license:{licence}", f"author:{author}"} <= set(row["tags"])
        assert f"@iconify-json/{style}@1.0.0" in row["source_url"] and row["page_url"].endswith(style)
    assert tags(store)[TAG]["tables"].keys() >= {"images", "captions"}
    assert Table(store, CAPTIONS).count() == sum(
        len(record["captions"]) for record in json.loads((folder / "records.json").read_text())
    )


def test_equal_drawings_are_one_with_the_captions_of_both_and_never_held_out_beside_a_trained_one(icons):
    drawings = merge_equal(icons)
    assert len(drawings) == 12
    cat = next(one for one in drawings if one.icon.style == "noto" and one.icon.slug == "cat")
    assert {"cat", "tom cat"} <= set(cat.captions)
    twin = Concept("1F998", "astronaut", [], [], 1)
    pair = [Icon("noto", f"n{number}", Concept(f"1F{number:03X}", f"n{number}", [], [], 3), icons[0].svg)
            for number in range(40)]  # fmt: skip
    (merged,) = merge_equal([*pair, Icon("noto", "astronaut", twin, icons[0].svg)])
    assert merged.split == "train"


def test_a_second_run_changes_nothing_and_draws_nothing_again(built, icons, monkeypatch):
    folder, num = built
    before = (folder / "pictures.npy").read_bytes(), Table(Store(str(folder / "store")), IMAGES).version
    monkeypatch.setattr("infra.starter.build_data.write_drawings", lambda *_: pytest.fail("drawn again"))
    assert build_data(icons, folder) == num
    assert before == ((folder / "pictures.npy").read_bytes(), Table(Store(str(folder / "store")), IMAGES).version)


def test_premultiplied_pictures_survive_a_png_file_exactly():
    alpha = np.repeat(np.arange(256), 256).reshape(256, 256)
    color = np.minimum(np.tile(np.arange(256), (256, 1)), alpha)
    picture = np.stack([color, color[:, ::-1] * 0, alpha, alpha], -1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(straight(picture)).save(file, "PNG")
    np.testing.assert_array_equal(premultiplied(np.asarray(Image.open(file))), picture)


def test_a_concept_without_keywords_leaves_no_comma_behind():
    bare, rng = Concept("2795", "plus", [], [], 8), np.random.default_rng(0)
    for caption in [*captions_of(bare, "noto", "gray", rng), *recolored_captions(bare, "noto", "blue", rng)]:
        assert caption == caption.strip(" ,:"), caption
