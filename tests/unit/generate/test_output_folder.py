"""The folder that a run leaves for people."""

import csv

import numpy as np
import pytest
from PIL import Image

from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.output_folder import file_name, write_output_folder
from emoji_ldm.generate.png_metadata import to_png
from emoji_ldm.generate.request import GenerationRequest
from tests.generation_requests import gray_png


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
