import csv
import io

import numpy as np
import pytest
from PIL import Image

from emoji_ldm.config import GenerateConfig
from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.draw import Draw
from emoji_ldm.generate.pack import file_name, write_pack
from emoji_ldm.generate.plan import generated_id, wanted_draws
from emoji_ldm.generate.post import clear_haze, read_draw, to_png
from emoji_ldm.generate.sheet import contact_sheet

DRAW = Draw("ein fröhlicher Blob 😀", "traurig", seed=2**40, steps=12, guidance_scale=2.5)


def pixels(alpha):
    return np.dstack([np.full((8, 8, 3), 200, np.uint8), np.full((8, 8), alpha, np.uint8)])


def row(prompt, seed=0):
    png = to_png(pixels(99), Draw(prompt, seed=seed), {})
    return {"image": {"bytes": png}, "prompt": prompt, "negative_prompt": "", "seed": seed, "steps": 3,
            "guidance_scale": 1.0, "model_key": "m", "generated_id": f"{prompt}{seed}"}  # fmt: skip


def test_a_png_tells_how_it_was_drawn_in_any_alphabet():
    png = to_png(pixels(99), DRAW, {"model_key": "0123", "dataset_images": "4"})
    assert read_draw(png) == DRAW
    text = Image.open(io.BytesIO(png)).text
    assert (text["model_key"], text["dataset_images"]) == ("0123", "4")
    assert text["parameters"].endswith("CFG scale: 2.5, Seed: 1099511627776, Size: 8x8, Model hash: 0123")


@pytest.mark.parametrize(("alpha", "mode"), [(255, "RGB"), (99, "RGBA")])
def test_alpha_is_kept_where_something_is_transparent(alpha, mode):
    assert Image.open(io.BytesIO(to_png(pixels(alpha), DRAW, {}))).mode == mode


def test_the_same_pixels_and_settings_give_the_same_bytes():
    assert to_png(pixels(99), DRAW, {"a": "b"}) == to_png(pixels(99), DRAW, {"a": "b"})


def test_haze_is_cleared_and_the_rest_untouched():
    np.testing.assert_array_equal(clear_haze(pixels(7)), 0)
    np.testing.assert_array_equal(clear_haze(pixels(8)), pixels(8))


@pytest.mark.parametrize(
    ("prompt", "name"),
    [("A Happy, Blob!", "0003_a-happy-blob_7.png"), ("😀", "0003_emoji_7.png"), ("../é", "0003_e_7.png")],
)
def test_file_names_suit_every_file_system(prompt, name):
    assert file_name(3, prompt, 7) == name


def test_a_pack_holds_pictures_sheet_and_list(tmp_path):
    sheet = write_pack(tmp_path / "out", [row("a cat"), row("a dog", 1)])
    assert sheet.name == "sheet.png" and Image.open(sheet).width > 100
    listed = list(csv.DictReader((tmp_path / "out" / "prompts.csv").open()))
    assert [(line["file"], line["prompt"], line["seed"]) for line in listed] == [
        ("0000_a-cat_0.png", "a cat", "0"), ("0001_a-dog_1.png", "a dog", "1")]  # fmt: skip
    assert all((tmp_path / "out" / line["file"]).is_file() for line in listed)


def test_a_pack_written_again_mends_files_and_touches_no_other(tmp_path):
    rows = [row("a cat"), row("a dog")]
    write_pack(tmp_path, rows)
    whole, broken = tmp_path / "0000_a-cat_0.png", tmp_path / "0001_a-dog_0.png"
    before = whole.stat().st_mtime_ns
    broken.write_bytes(b"")
    write_pack(tmp_path, rows)
    assert whole.stat().st_mtime_ns == before
    assert broken.read_bytes() == rows[1]["image"]["bytes"]


def test_a_sheet_has_a_card_for_every_picture_however_long_its_caption():
    png = row("x")["image"]["bytes"]
    one = Image.open(io.BytesIO(contact_sheet([(png, "")])))
    many = Image.open(io.BytesIO(contact_sheet([(png, "word " * 50), (png, "w" * 99)] * 5, columns=2)))
    assert many.width < 2 * one.width and many.height > 5 * one.height - 99


def test_prompts_come_from_both_places_once_each_with_consecutive_seeds(tmp_path):
    (tmp_path / "prompts.txt").write_text("a dog\n\n a cat \n")
    config = GenerateConfig(prompts=("a cat",), prompts_file=str(tmp_path / "prompts.txt"), num_images=2, seed=5)
    assert [(draw.prompt, draw.seed) for draw in wanted_draws(config)] == [
        ("a cat", 5), ("a cat", 6), ("a dog", 5), ("a dog", 6)]  # fmt: skip


def test_missing_prompts_are_named_with_an_example(tmp_path):
    with pytest.raises(ConfigError, match="emoji-ldm generate 'a happy blob'"):
        wanted_draws(GenerateConfig())
    with pytest.raises(ConfigError, match="one prompt per line"):
        wanted_draws(GenerateConfig(prompts_file=str(tmp_path / "none.txt")))


def test_an_id_depends_on_all_that_changes_pixels():
    ids = {generated_id("m", DRAW, 8), generated_id("n", DRAW, 8), generated_id("m", DRAW, 4)}
    changes = [("prompt", "x"), ("negative_prompt", "x"), ("seed", 1), ("steps", 1), ("guidance_scale", 9.0)]
    ids |= {generated_id("m", Draw(**{**vars(DRAW), name: value}), 8) for name, value in changes}
    assert len(ids) == 8
    assert generated_id("m", Draw("a", guidance_scale=3), 8) == generated_id("m", Draw("a", guidance_scale=3.0), 8)
