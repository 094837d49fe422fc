"""Drawing without Ray: the files, the pixels, and what is refused before a model is loaded."""

import csv
import sys

import numpy as np
import pytest

from emoji_ldm.config import build
from emoji_ldm.errors import ConfigError, ModelError, UntrainedError
from emoji_ldm.generate.local_generation import generate_locally
from emoji_ldm.generate.offline_sampler import OfflineSampler
from emoji_ldm.generate.pipeline_loader import load_model
from emoji_ldm.generate.png_metadata import clear_faint_pixels, read_request
from emoji_ldm.generate.request import GenerationRequest
from tests.tiny_pipelines import pixels_of


@pytest.fixture
def configure(tmp_path):
    def build_config(*prompts, **settings):
        generate = {"prompts": list(prompts), "steps": 2, "batch_size": 2, **settings}
        return build({"store": str(tmp_path / "store"), "generate": generate}, where="test")

    return build_config


def test_without_a_checkpoint_the_starter_draws_one_file(tiny_starter, configure, tmp_path, capsys):
    summary = generate_locally(configure("a 🐱"), str(tmp_path / "new" / "cat.png"))
    assert summary["images"] == 1 and str(summary["model"]).startswith("starter (")
    assert "run 'default' has no checkpoint yet: the packaged starter model draws" in capsys.readouterr().err
    png = (tmp_path / "new" / "cat.png").read_bytes()
    assert read_request(png) == GenerationRequest("a cat face", steps=2)
    # Nothing else is written: no table, no store.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new"]


def test_a_folder_gets_the_pixels_of_the_job_with_a_sheet_and_a_list(tiny_pipeline, configure, tmp_path):
    config = configure("a cat", "a dog", num_images=2, checkpoint=str(tiny_pipeline))
    assert generate_locally(config, str(tmp_path / "out"))["images"] == 4
    names = ["0000_a-cat_0.png", "0001_a-cat_1.png", "0002_a-dog_0.png", "0003_a-dog_1.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [*names, "prompts.csv", "sheet.png"]
    requests = [GenerationRequest(prompt, seed=seed, steps=2) for prompt in ("a cat", "a dog") for seed in (0, 1)]
    images = OfflineSampler(load_model(tiny_pipeline, "cpu"), 2)(requests)
    for name, image in zip(names, images, strict=True):
        np.testing.assert_array_equal(pixels_of((tmp_path / "out" / name).read_bytes()), clear_faint_pixels(image))
    with (tmp_path / "out" / "prompts.csv").open() as file:
        assert [(row["file"], row["seed"]) for row in csv.DictReader(file)] == list(zip(names, "0101", strict=True))


@pytest.mark.parametrize(("output", "prompts", "problem"), [
    ("cat.png", ["a", "b"], "is one file, but 2 images are asked for; name a folder"),
    ("file", ["a"], "is a file; name a folder, or a file that ends in .png"),
    ("folder.png", ["a"], "is a folder; name a file"),
    ("cat.png", [], "no prompts"),
])  # fmt: skip
def test_what_cannot_be_written_is_refused_at_once(configure, tmp_path, output, prompts, problem):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ConfigError, match=problem):
        generate_locally(configure(*prompts), str(tmp_path / output))


def test_a_file_below_a_file_is_refused(tiny_pipeline, configure, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write .*cat.png"):
        generate_locally(configure("a cat", checkpoint=str(tiny_pipeline)), str(tmp_path / "file" / "cat.png"))


def test_without_weights_one_line_says_what_to_do(no_starter, configure, tmp_path):
    with pytest.raises(UntrainedError, match="has no unet checkpoint; make one with: emoji-ldm train"):
        generate_locally(configure("a cat"), str(tmp_path / "cat.png"))
    with pytest.raises(ModelError, match="this installation has no weights of the starter model"):
        generate_locally(configure("a cat", checkpoint="starter"), str(tmp_path / "cat.png"))


@pytest.mark.slow
def test_the_command_needs_no_ray(tiny_starter, tmp_path, monkeypatch, capsys):
    from ray_jobs.cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)  # any import of it would fail
    words = ["generate", "a cat", "-o", "cat.png", "generate.steps=1", "generate.batch_size=1"]
    assert main(words) == 0, capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["cat.png"]
    assert main(["generate", "", "-o", "cat.png"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: a prompt is empty; say what to draw")
