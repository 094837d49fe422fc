"""The folder that a run leaves for people; contact sheets: a card per image, with a caption that fits it."""

import csv
import io

import numpy as np
import pytest
from PIL import Image, ImageFont

from emoji_ldm.errors import ConfigError
from emoji_ldm.generate import output_folder
from emoji_ldm.generate.output_folder import contact_sheet, file_name, write_output_folder
from emoji_ldm.generate.png_metadata import to_png
from emoji_ldm.generate.request import GenerationRequest
from tests.generation_requests import gray_png, noise_png


def test_a_sheet_has_a_card_for_every_image_however_long_its_caption():
    one = Image.open(io.BytesIO(contact_sheet([(gray_png(9), "")])))
    many = Image.open(io.BytesIO(contact_sheet([(gray_png(9), "word " * 50), (noise_png(), "w" * 99)] * 5, columns=2)))
    assert many.width < 2 * one.width and many.height > 5 * one.height - 99


def test_a_sheet_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one image"):
        contact_sheet([])


def test_small_images_are_enlarged_by_an_integer_factor_and_large_ones_reduced():
    assert output_folder._scale_to_card(Image.new("RGBA", (48, 24))).size == (96, 48)
    assert output_folder._scale_to_card(Image.new("RGBA", (512, 256))).size == (128, 64)


@pytest.mark.parametrize("text", ["w" * 4000, "i" * 4000, "w i" * 1300, "\u200d" * 4000, "😀" * 4000])
def test_a_caption_of_thousands_of_characters_is_truncated_without_measuring_all_of_them(text):
    font, measured = ImageFont.load_default(13), []

    class CountingFont:
        def getlength(self, line):
            measured.append(len(line))
            return font.getlength(line)

    lines = output_folder._wrap(text, CountingFont())
    assert 1 <= len(lines) <= 3 and all(font.getlength(line) <= output_folder.IMAGE_SIDE_PX + 20 for line in lines)
    assert "".join(lines) == text[:200] or lines[-1].endswith("…")
    assert sum(measured) < 10_000


def row(prompt, seed=0, **special):
    """A row of the table `generated`."""
    request = GenerationRequest(prompt, seed=seed, **special)
    png = to_png(np.full((8, 8, 4), 99, np.uint8), request, {"sampler": "DDIM"})
    return {"image": {"bytes": png}, "prompt": prompt, "negative_prompt": "", "seed": seed, "steps": 3,
            "guidance_scale": 1.0, "model_key": "m", "generated_id": f"{prompt}{seed}"}  # fmt: skip


@pytest.mark.parametrize(
    ("prompt", "name"),
    [("A Happy, Blob!", "0003_a-happy-blob_7.png"), ("😀", "0003_emoji_7.png"), ("../é", "0003_e_7.png")],
)
def test_file_names_suit_every_file_system(prompt, name):
    assert file_name(3, prompt, 7) == name


def test_the_folder_holds_images_sheet_and_list(tmp_path):
    sheet = write_output_folder(tmp_path / "out", [row("a cat"), row("a dog", 1)])
    assert sheet.name == "sheet.png" and Image.open(sheet).width > 100
    listed = list(csv.DictReader((tmp_path / "out" / "prompts.csv").open()))
    assert [(line["file"], line["prompt"], line["seed"]) for line in listed] == [
        ("0000_a-cat_0.png", "a cat", "0"), ("0001_a-dog_1.png", "a dog", "1")]  # fmt: skip
    assert all((tmp_path / "out" / line["file"]).is_file() for line in listed)


def test_the_list_has_the_settings_that_only_the_files_state(tmp_path):
    special = row("a dog", image=gray_png(9), strength=0.5, lora="pixel-art", width_px=8)
    write_output_folder(tmp_path, [row("a cat"), special])
    plain, special = csv.DictReader((tmp_path / "prompts.csv").open())
    assert (plain["sampler"], plain["strength"], plain["lora"]) == ("DDIM", "", "")
    assert (special["strength"], special["lora"], special["width_px"]) == ("0.5", "pixel-art", "8")


def test_writing_again_repairs_damaged_files_and_touches_no_other(tmp_path):
    rows = [row("a cat"), row("a dog")]
    write_output_folder(tmp_path, rows)
    intact, damaged = tmp_path / "0000_a-cat_0.png", tmp_path / "0001_a-dog_0.png"
    before = intact.stat().st_mtime_ns
    damaged.write_bytes(b"")
    write_output_folder(tmp_path, rows)
    assert intact.stat().st_mtime_ns == before
    assert damaged.read_bytes() == rows[1]["image"]["bytes"]


def test_a_folder_that_cannot_be_written_is_reported_with_the_option(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"choose another folder with generate.output="):
        write_output_folder(tmp_path / "file" / "out", [row("a cat")])


@pytest.mark.parametrize("installed", [True, False])
def test_emoji_characters_of_a_caption_become_words_and_not_boxes(monkeypatch, installed):
    from emoji_ldm.generate import output_folder, prompt_text

    if not installed:
        monkeypatch.setattr(prompt_text, "find_spec", lambda _: None)
    font = output_folder.caption_font()
    lines = output_folder._wrap("a \U0001f63a with \u2764\ufe0f", font)
    assert " ".join(lines) == ("a grinning cat with red heart" if installed else "a with")
    assert output_folder._wrap("\U0001f63a", font) == (["grinning cat"] if installed else [])


@pytest.mark.parametrize(
    ("caption", "shown"),
    [
        ("a café — naïve", "a café — naïve"),
        ("cafe\u0301", "café"),
        ("chú mèo đang cười rạng rỡ", "chú mèo đang cười rạng rỡ"),
        ("счастливый кот", "счастливый кот"),
        ("a 快乐的猫 cat", "a ? cat"),
        ("zero\u200dwidth \u2060 \U000e0067", "zerowidth"),
    ],
)
def test_captions_have_letters_of_other_languages_and_no_boxes(caption, shown):
    font = output_folder.caption_font()
    assert " ".join(output_folder._wrap(caption, font)) == shown
    box = bytes(font.getmask("\U0010ffff"))
    assert all(bytes(font.getmask(one)) != box for one in shown if one != " ")


def test_the_pixels_of_a_caption_are_those_of_its_words():
    """Whatever is drawn: a sheet with an emoji character is the one with its name, and no box beside it."""

    def sheet(caption):
        return Image.open(io.BytesIO(contact_sheet([(gray_png(9), caption)]))).tobytes()

    assert sheet("\U0001f63a") == sheet("grinning cat") != sheet("")
    assert sheet("\U0001f1eb\U0001f1f7 flag") == sheet("France flag")
    assert sheet("an \U0001f469\u200d\U0001f680") == sheet("an woman astronaut")
