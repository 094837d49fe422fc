import csv
import hashlib
import io
from dataclasses import replace
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
from PIL import Image, ImageFont

from emoji_ldm.config import GenerateConfig, key_of, load
from emoji_ldm.errors import ConfigError
from emoji_ldm.generate import output_folder
from emoji_ldm.generate.output_folder import contact_sheet, file_name, write_output_folder
from emoji_ldm.generate.png_metadata import (
    WEBUI_SAMPLERS,
    clear_faint_pixels,
    describe_mode,
    provenance,
    read_request,
    to_png,
    webui_sampler_name,
)
from emoji_ldm.generate.request import (
    SCHEDULERS,
    GenerationRequest,
    request_settings,  # fmt: skip
)
from emoji_ldm.generate.request_planner import generated_id, plan_requests

DRAW = GenerationRequest("ein fröhlicher Blob 😀", "traurig", seed=2**40, steps=12, guidance_scale=2.5)
SPECIAL = replace(DRAW, scheduler="dpmpp_2m", width_px=8, height_px=16, strength=0.5, lora="pixel-art")


def pixels(alpha):
    return np.dstack([np.full((8, 8, 3), 200, np.uint8), np.full((8, 8), alpha, np.uint8)])


def picture(value):
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def row(prompt, seed=0, **special):
    png = to_png(pixels(99), GenerationRequest(prompt, seed=seed, **special), {"sampler": "DDIM"})
    return {"image": {"bytes": png}, "prompt": prompt, "negative_prompt": "", "seed": seed, "steps": 3,
            "guidance_scale": 1.0, "model_key": "m", "generated_id": f"{prompt}{seed}"}  # fmt: skip


def test_a_png_tells_how_it_was_drawn_in_any_alphabet():
    png = to_png(pixels(99), DRAW, {"model_key": "0123", "dataset_images": "4"})
    assert read_request(png) == DRAW
    text = Image.open(io.BytesIO(png)).text
    assert (text["model_key"], text["dataset_images"]) == ("0123", "4")
    assert text["parameters"].endswith("CFG scale: 2.5, Seed: 1099511627776, Size: 8x8, Model hash: 0123")


def test_a_png_tells_all_settings_and_its_pictures_by_their_hash():
    draw = replace(SPECIAL, image=picture(9), mask=picture(255))
    text = Image.open(io.BytesIO(png := to_png(pixels(99), draw, {"model_key": "0123"}))).text
    assert read_request(png) == SPECIAL
    assert text["image_sha256"] == hashlib.sha256(draw.image).hexdigest() and "mask_sha256" in text
    assert text["parameters"].endswith(
        "Steps: 12, Sampler: DPM++ 2M, CFG scale: 2.5, Seed: 1099511627776, Size: 8x8, Model hash: 0123, "
        "Denoising strength: 0.5, Lora: pixel-art"
    )


def test_settings_without_effect_are_not_told():
    assert request_settings(GenerationRequest("a", strength=0.3)) == request_settings(GenerationRequest("a"))
    assert request_settings(GenerationRequest("a")).keys() == {
        "prompt",
        "negative_prompt",
        "seed",
        "steps",
        "guidance_scale",
    }


@pytest.mark.parametrize(
    ("scheduler", "config", "name"),
    [
        ("", {}, "DDIM"), ("", {"prediction_type": "flow_prediction"}, "Euler"), ("euler_ancestral", {}, "Euler a"),
        ("dpmpp_2m", {"use_karras_sigmas": True}, "DPM++ 2M Karras"), ("lcm", {"use_karras_sigmas": True}, "LCM"),
    ],
)  # fmt: skip
def test_samplers_have_the_names_that_people_know(scheduler, config, name):
    assert webui_sampler_name(scheduler, config) == name


def test_facts_name_model_mode_and_data():
    model = SimpleNamespace(key="0123", scheduler_config={}, device=SimpleNamespace(type="cpu"))
    facts = provenance(model, DRAW, describe_mode(8, strict=True), {"images": 4})
    assert facts.pop("made_with").startswith("emoji_ldm ")
    assert facts == {"model_key": "0123", "sampler": "DDIM", "mode": "strict, batch 8", "dataset_images": "4"}


def test_every_scheduler_has_a_name_and_can_be_configured():
    literal, _ = get_args(GenerateConfig.model_fields["scheduler"].annotation)  # Literal[...] | None
    assert set(WEBUI_SAMPLERS) == set(SCHEDULERS) == {*get_args(literal)}


@pytest.mark.parametrize(("alpha", "mode"), [(255, "RGB"), (99, "RGBA")])
def test_alpha_is_kept_where_something_is_transparent(alpha, mode):
    assert Image.open(io.BytesIO(to_png(pixels(alpha), DRAW, {}))).mode == mode


def test_the_same_pixels_and_settings_give_the_same_bytes():
    assert to_png(pixels(99), DRAW, {"a": "b"}) == to_png(pixels(99), DRAW, {"a": "b"})


def test_haze_is_cleared_and_the_rest_untouched():
    np.testing.assert_array_equal(clear_faint_pixels(pixels(7)), 0)
    np.testing.assert_array_equal(clear_faint_pixels(pixels(8)), pixels(8))


@pytest.mark.parametrize(
    ("prompt", "name"),
    [("A Happy, Blob!", "0003_a-happy-blob_7.png"), ("😀", "0003_emoji_7.png"), ("../é", "0003_e_7.png")],
)
def test_file_names_suit_every_file_system(prompt, name):
    assert file_name(3, prompt, 7) == name


def test_a_pack_holds_pictures_sheet_and_list(tmp_path):
    sheet = write_output_folder(tmp_path / "out", [row("a cat"), row("a dog", 1)])
    assert sheet.name == "sheet.png" and Image.open(sheet).width > 100
    listed = list(csv.DictReader((tmp_path / "out" / "prompts.csv").open()))
    assert [(line["file"], line["prompt"], line["seed"]) for line in listed] == [
        ("0000_a-cat_0.png", "a cat", "0"), ("0001_a-dog_1.png", "a dog", "1")]  # fmt: skip
    assert all((tmp_path / "out" / line["file"]).is_file() for line in listed)


def test_the_list_tells_what_a_file_alone_knows(tmp_path):
    write_output_folder(
        tmp_path, [row("a cat"), row("a dog", image=picture(9), strength=0.5, lora="pixel-art", width_px=8)]
    )
    plain, special = csv.DictReader((tmp_path / "prompts.csv").open())
    assert (plain["sampler"], plain["strength"], plain["lora"]) == ("DDIM", "", "")
    assert (special["strength"], special["lora"], special["width_px"]) == ("0.5", "pixel-art", "8")


def test_a_pack_written_again_mends_files_and_touches_no_other(tmp_path):
    rows = [row("a cat"), row("a dog")]
    write_output_folder(tmp_path, rows)
    whole, broken = tmp_path / "0000_a-cat_0.png", tmp_path / "0001_a-dog_0.png"
    before = whole.stat().st_mtime_ns
    broken.write_bytes(b"")
    write_output_folder(tmp_path, rows)
    assert whole.stat().st_mtime_ns == before
    assert broken.read_bytes() == rows[1]["image"]["bytes"]


def test_a_sheet_has_a_card_for_every_picture_however_long_its_caption():
    png = row("x")["image"]["bytes"]
    one = Image.open(io.BytesIO(contact_sheet([(png, "")])))
    many = Image.open(io.BytesIO(contact_sheet([(png, "word " * 50), (png, "w" * 99)] * 5, columns=2)))
    assert many.width < 2 * one.width and many.height > 5 * one.height - 99


@pytest.mark.parametrize("text", ["w" * 4000, "i" * 4000, "w i" * 1300, "\u200d" * 4000, "😀" * 4000])
def test_a_caption_of_thousands_of_characters_is_cut_to_the_card_without_measuring_them_over_and_over(text):
    font, measured = ImageFont.load_default(13), []

    class Counting:
        def getlength(self, line):
            measured.append(len(line))
            return font.getlength(line)

    lines = output_folder._wrap(text, Counting())
    assert 1 <= len(lines) <= 3 and all(font.getlength(line) <= output_folder.IMAGE_SIDE_PX + 20 for line in lines)
    assert "".join(lines) == text[:200] or lines[-1].endswith("…")
    assert sum(measured) < 10_000


def test_prompts_come_from_both_places_once_each_with_consecutive_seeds(tmp_path):
    (tmp_path / "prompts.txt").write_text("a dog\n\n a cat \n")
    config = GenerateConfig(prompts=("a cat",), prompts_file=str(tmp_path / "prompts.txt"), num_images=2, seed=5)
    assert [(draw.prompt, draw.seed) for draw in plan_requests(config)] == [
        ("a cat", 5), ("a cat", 6), ("a dog", 5), ("a dog", 6)]  # fmt: skip


def test_missing_prompts_are_named_with_an_example(tmp_path):
    with pytest.raises(ConfigError, match="emoji-ldm generate 'a happy blob'"):
        plan_requests(GenerateConfig())
    with pytest.raises(ConfigError, match="one prompt per line"):
        plan_requests(GenerateConfig(prompts_file=str(tmp_path / "none.txt")))


def test_an_id_depends_on_all_that_changes_pixels():
    ids = {generated_id("m", DRAW, 8), generated_id("n", DRAW, 8), generated_id("m", DRAW, 4)}
    changes = [("prompt", "x"), ("negative_prompt", "x"), ("seed", 1), ("steps", 1), ("guidance_scale", 9.0)]
    ids |= {generated_id("m", GenerationRequest(**{**vars(DRAW), name: value}), 8) for name, value in changes}
    special = [("scheduler", "euler"), ("width_px", 8), ("height_px", 8), ("image", b"a"), ("lora", "a")]
    ids |= {generated_id("m", replace(DRAW, **{name: value}), 8) for name, value in special}
    ids |= {generated_id("m", replace(DRAW, image=b"a", **more), 8) for more in ({"mask": b"b"}, {"strength": 0.5})}
    ids.add(generated_id("m", DRAW, 8, strict=False))
    assert len(ids) == 8 + 5 + 2 + 1
    assert set(GenerationRequest.__dataclass_fields__) == {name for name, _ in changes + special} | {"mask", "strength"}
    assert generated_id("m", GenerationRequest("a", guidance_scale=3), 8) == generated_id(
        "m", GenerationRequest("a", guidance_scale=3.0), 8
    )
    assert generated_id("m", replace(DRAW, strength=0.1), 8) == generated_id("m", DRAW, 8)  # it starts from no picture


def test_plain_draws_keep_the_ids_that_they_had():
    assert generated_id("m", GenerationRequest("a cat", "sad", 7, 20, 3.0), 8) == key_of(
        "m", "a cat", "sad", 7, 20, 3.0, 8
    )


def test_every_draw_takes_picture_size_scheduler_and_adapter(tmp_path):
    (tmp_path / "cat.png").write_bytes(picture(9))
    (tmp_path / "mask.png").write_bytes(picture(255))
    files = {"image": str(tmp_path / "cat.png"), "mask": str(tmp_path / "mask.png")}
    plain = GenerateConfig(prompts=("a", "b"), scheduler="lcm", width_px=64, lora="/art/pixels", image=files["image"])
    draws = plan_requests(plain)
    assert [replace(draw, prompt="") for draw in draws] == [
        GenerationRequest("", scheduler="lcm", width_px=64, image=picture(9), strength=0.8, lora="pixels")
    ] * 2
    assert plan_requests(GenerateConfig(prompts=("a",), **files))[0].strength == 1
    assert plan_requests(GenerateConfig(prompts=("a",), **files, strength=0.3))[0].strength == 0.3


def test_pictures_of_the_configuration_are_looked_into_before_anything_is_drawn(tmp_path):
    (tmp_path / "x.png").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"generate.image=.*none.png: .*give a picture file"):
        plan_requests(GenerateConfig(prompts=("a",), image=str(tmp_path / "none.png")))
    with pytest.raises(ConfigError, match="image cannot be read"):
        plan_requests(GenerateConfig(prompts=("a",), image=str(tmp_path / "x.png")))


@pytest.mark.parametrize("override", ["mask=a.png", "strength=0.5"])
def test_options_of_a_picture_are_refused_without_one(override):
    with pytest.raises(ConfigError, match=r"generate\.\w+=.* has no effect without generate.image"):
        load(overrides=[f"generate.{override}"])
