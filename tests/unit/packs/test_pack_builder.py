"""Whole packs, target by target."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from emoji_ldm.errors import ConfigError, PackError
from emoji_ldm.packs.pack_builder import PackOptions, build_pack
from emoji_ldm.packs.source_pictures import SourcePicture
from emoji_ldm.packs.target_limits import TARGETS
from tests.unit.packs.pictures import face_png, png

SOURCES = [SourcePicture(f"{n}.png", face_png(prompt=text, seed=str(n), model_key="k"))
           for n, text in enumerate(["a happy blob", "a sad cat", "a sad cat"])]  # fmt: skip


def built(target, sources=SOURCES, **options):
    archive, report = build_pack(sources, PackOptions(target, **options))
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}, report


def size_of(data):
    return Image.open(io.BytesIO(data)).size


@pytest.mark.parametrize("target", [name for name, each in TARGETS.items() if each.size_px != 512])
def test_every_target_of_small_pictures_gets_a_pack_that_passes_its_own_rules(target):
    files, report = built(target)
    assert report.num_pictures == 3 and report.skipped == {}
    assert {"manifest.json", "LICENSE.txt"} <= files.keys()


@pytest.mark.slow
@pytest.mark.parametrize("target", [name for name, each in TARGETS.items() if each.size_px == 512])
def test_every_target_of_large_pictures_gets_a_pack_that_passes_its_own_rules(target):
    files, report = built(target)
    assert report.num_pictures == 3
    if target == "whatsapp":
        [pack] = json.loads(files["contents.json"])["sticker_packs"]
        assert size_of(files["1/tray.png"]) == (96, 96)
        assert {f"1/{each['image_file']}" for each in pack["stickers"]} <= files.keys()
    if target == "favicon":
        assert Image.open(io.BytesIO(files["sad_cat_2/favicon.ico"])).info["sizes"] == {(16, 16), (32, 32), (48, 48)}


def test_a_discord_pack_names_emoji_by_their_prompts_and_states_their_origin():
    files, _ = built("discord", name="Blobs", license="CC-BY-4.0")
    pictures = {name: data for name, data in files.items() if name.startswith("emoji/")}
    assert pictures.keys() == {"emoji/happy_blob.png", "emoji/sad_cat.png", "emoji/sad_cat_2.png"}
    assert all(size_of(data) == (128, 128) and len(data) < 262_144 for data in pictures.values())
    manifest = json.loads(files["manifest.json"])
    assert manifest["emoji"][1]["source"]["prompt"] == "a sad cat"
    assert manifest["emoji"][1]["source"]["model_key"] == "k"
    assert manifest["limits"]["max_bytes"] == 262_144
    assert files["LICENSE.txt"] == b"CC-BY-4.0\n"


def test_the_same_pictures_give_the_same_bytes():
    assert build_pack(SOURCES, PackOptions("sprite"))[0] == build_pack(SOURCES, PackOptions("sprite"))[0]
    assert build_pack(SOURCES, PackOptions("font"))[0] == build_pack(SOURCES, PackOptions("font"))[0]
    assert build_pack(SOURCES, PackOptions("mastodon"))[0] == build_pack(SOURCES, PackOptions("mastodon"))[0]


def test_misskey_s_importer_finds_each_picture_that_meta_json_names():
    files, _ = built("misskey")
    entries = json.loads(files["meta.json"])["emojis"]
    assert len(entries) == 3 and all(entry["downloaded"] and entry["fileName"] in files for entry in entries)


def test_a_style_sheet_points_at_the_cell_of_each_emoji():
    reds = [SourcePicture(f"{name}.png", png(np.full((64, 64, 4), rgba, np.uint8)))
            for name, rgba in (("red", (255, 0, 0, 255)), ("blue", (0, 0, 255, 255)))]  # fmt: skip
    files, _ = built("sprite", reds)
    style, sheet = files["emoji.css"].decode(), Image.open(io.BytesIO(files["sprite.png"])).convert("RGBA")
    assert ".emoji-red{background-position:0% 0%}" in style and ".emoji-blue{background-position:100% 0%}" in style
    assert sheet.size == (256, 128) and sheet.getpixel((64, 64)) == (255, 0, 0, 255)
    assert sheet.getpixel((192, 64)) == (0, 0, 255, 255)


def test_a_picture_that_cannot_be_read_stops_the_pack_or_is_left_out_with_its_reason():
    bad = [
        *SOURCES,
        SourcePicture("paper.png", b"%PDF"),
        SourcePicture("empty.png", png(np.zeros((9, 9, 4), np.uint8))),
    ]
    with pytest.raises(PackError, match=r"paper\.png: no known image format"):
        build_pack(bad, PackOptions("slack"))
    files, report = built("slack", bad, keep_going=True)
    assert report.skipped == {"paper.png": "no known image format", "empty.png": "no pixel is visible"}
    assert json.loads(files["manifest.json"])["skipped"] == report.skipped
    with pytest.raises(PackError, match="none of the 1 files can be packed"):
        build_pack(bad[3:4], PackOptions("slack", keep_going=True))


def test_too_few_pictures_for_a_target_are_refused_before_any_is_enlarged():
    with pytest.raises(PackError, match="WhatsApp stickers: a pack has 3 to 30 pictures, and here are 2"):
        build_pack(SOURCES[:2], PackOptions("whatsapp"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (PackOptions("discord", outline_px=17), "takes 0 to 16 px"),
        (PackOptions("discord", outline_px=-1), "takes 0 to 16 px"),
        (PackOptions("zip", outline_px=1), "has no effect"),
        (PackOptions("discord", name=" "), "must have 1 to 64 characters"),
        (PackOptions("discord", license="x" * 5000), "longer than 4,000"),
    ],
)
def test_a_wrong_option_is_named(options, says):
    with pytest.raises(ConfigError, match=says):
        build_pack(SOURCES, options)


def test_hostile_names_and_prompts_cannot_leave_the_archive_or_enter_its_pages():
    hostile = "<img src=x onerror=alert(1)>/../../../etc"
    sources = [SourcePicture("../../x.png", face_png(prompt=hostile)), SourcePicture("y.png", face_png())]
    for target in ("sprite", "font", "misskey", "discord"):
        files, _ = built(target, sources, name="</title><script>")
        assert not any(part in ("", "..") for name in files for part in name.split("/"))
        assert b"<script" not in files.get("index.html", b"") and b"onerror=" not in files.get("index.html", b"")
