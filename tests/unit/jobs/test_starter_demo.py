"""The demo's last part: what is trained, what is shown, and that it needs the packaged weights."""

import io

import numpy as np
import pytest
from PIL import Image

from emoji_ldm.config import load
from emoji_ldm.errors import UntrainedError
from emoji_ldm.evaluate.evaluation_page import data_uri
from emoji_ldm.store import Store
from ray_jobs import starter_demo
from ray_jobs.starter_demo import compare_with_starter, comparison_sheet, tuned_config
from tests.emoji_images import blobs, fill_images


def png(color):
    stream = io.BytesIO()
    Image.new("RGBA", (64, 64), color).save(stream, "PNG")
    return stream.getvalue()


def test_without_packaged_weights_the_demo_is_as_it_was(no_starter, monkeypatch):
    monkeypatch.setattr(starter_demo, "run_stages", None)
    compare_with_starter(load("demo"))


def test_fine_tuning_has_the_demos_data_and_prompts_and_the_starters_model():
    demo = load("demo", ["store=elsewhere"])
    tuned = tuned_config(demo)
    assert (tuned.run, tuned.store, tuned.branch) == ("demo-starter", "elsewhere", demo.branch)
    assert tuned.generate.prompts == demo.generate.prompts and tuned.train.sample_prompts == demo.train.sample_prompts
    assert (tuned.latents.vae, tuned.latents.size_px, tuned.train.init) == ("starter", 64, "starter")
    assert tuned.latents.max_tokens == 32 and tuned.train.prediction_type == "flow"


def test_the_starter_is_trained_then_drawn_beside_the_others(tiny_starter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran, drawn = [], []
    monkeypatch.setattr(starter_demo, "run_stages", lambda stages, config: ran.append((stages, config.run)))

    def draw(config, checkpoint, scheduler):
        drawn.append((config.run, checkpoint, scheduler))
        return [(png("red"), "a cat")]

    monkeypatch.setattr(starter_demo, "drawn_by", draw)
    fill_images(Store(str(tmp_path / "store")), blobs(2))
    compare_with_starter(load("demo", [f"store={tmp_path / 'store'}"]))
    assert ran == [(("latents", "train"), "demo-starter")]
    assert drawn == [("demo", None, None), ("demo-starter", "starter", "dpmpp_2m"), ("demo-starter", None, "dpmpp_2m")]
    sheet = (tmp_path / "runs" / "demo" / "starter.png").read_bytes()
    assert sheet == (tmp_path / "store" / "runs" / "demo" / "starter.png").read_bytes()
    assert data_uri(sheet) in (tmp_path / "runs" / "demo" / "report.html").read_text()


def test_a_column_of_a_run_without_a_checkpoint_is_an_error_and_not_the_starter(tiny_starter, tmp_path):
    config = load("demo", [f"store={tmp_path}"])
    with pytest.raises(UntrainedError, match=r"run 'demo' .* has no unet checkpoint"):
        starter_demo.drawn_by(config, None, None)


def test_the_pictures_of_a_prompt_are_side_by_side():
    colors = [
        ["red", "blue", "green"],
        ["black", "yellow", "gray"],
        ["navy", "lime", "teal"],
        ["pink", "gold", "brown"],
    ]
    models = {
        name: [(png(row[number]), f"prompt {at}") for at, row in enumerate(colors)] for number, name in enumerate("abc")
    }
    sheet = np.asarray(Image.open(io.BytesIO(comparison_sheet(models))).convert("RGB"))
    width, height = sheet.shape[1] // 9, sheet.shape[0] // 2
    for place, name in enumerate(color for row in colors for color in row):
        row, column = divmod(place, 9)
        cell = sheet[row * height :, column * width :][:height, :width].reshape(-1, 3)
        expected = Image.new("RGB", (1, 1), name).getpixel((0, 0))
        assert (cell == expected).all(1).mean() > 0.2, name
