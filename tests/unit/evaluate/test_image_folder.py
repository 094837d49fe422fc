"""Folders of pictures from any model: prompts from metadata, else from names."""

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from emoji_ldm.errors import ConfigError
from emoji_ldm.evaluate.image_folder import prompt_of_name, read_image_folder


def save(path, **chunks):
    info = PngImagePlugin.PngInfo()
    for name, text in chunks.items():
        info.add_itxt(name, text)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8, 4), np.uint8)).save(path, pnginfo=info)


def test_prompts_come_from_our_metadata_then_that_of_web_uis_then_the_name(tmp_path):
    save(tmp_path / "0000_x_1.png", prompt="a happy cat", parameters="other")
    save(tmp_path / "b" / "1.png", parameters="a sad dog\nNegative prompt: blurry\nSteps: 20")
    save(tmp_path / "0003_green-frog_7.png")
    save(tmp_path / "sheet.png")
    (tmp_path / "prompts.csv").write_text("not a picture")
    found = read_image_folder(str(tmp_path))
    assert [(one.name, one.prompt) for one in found] == [
        ("0000_x_1.png", "a happy cat"), ("0003_green-frog_7.png", "green frog"), ("b/1.png", "a sad dog"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("stem", "prompt"), [("0003_happy-cat_7", "happy cat"), ("happy_cat", "happy cat"), ("12", "12"), ("cat 3", "cat")]
)
def test_numbers_at_the_ends_of_a_name_are_no_words_of_the_prompt(stem, prompt):
    assert prompt_of_name(stem) == prompt


def test_a_folder_that_is_missing_empty_or_broken_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match="is no folder"):
        read_image_folder(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="holds no PNG"):
        read_image_folder(str(tmp_path))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"broken\.png cannot be read"):
        read_image_folder(str(tmp_path))
