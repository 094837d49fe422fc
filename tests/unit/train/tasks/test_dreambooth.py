"""DreamBooth: image folders, batches of two halves, and clear errors before any work starts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from emoji_ldm.config import load
from emoji_ldm.dataset import checkpoints
from emoji_ldm.errors import ConfigError, DatasetError, JobError
from emoji_ldm.latents.cache import latent_rows, text_rows
from emoji_ldm.schemas import LATENTS, TEXT_EMBEDDINGS
from emoji_ldm.store import Store
from emoji_ldm.train.engines import distributed
from emoji_ldm.train.loop import fit
from emoji_ldm.train.tasks import dreambooth
from emoji_ldm.train.tasks.dreambooth import DreamBoothData, instance_class_halves, load_task
from emoji_ldm.train.tasks.pipeline_export import load_frozen
from emoji_ldm.train.training_args import build_training_args
from ray_jobs import dreambooth as dreambooth_job
from tests.latents_store import commit
from tests.unit.train import tiny

SIDE_PX = 16
LEVELS = "train.beta_start=0.0001"  # of the tiny pipeline


def photo(path, size=(24, 40), colour=(200, 30, 60), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, "white")
    image.paste(colour, (0, 0, size[0], size[1] // 4))  # a band at the top
    image.save(path, **options)
    return path


def concepts(tmp_path, **fields):
    photo(tmp_path / "subject" / "one.jpg")
    fields = {"instance_prompt": "a photo of zwx cat", "instance_folder": str(tmp_path / "subject"), **fields}
    return f"train.dreambooth.concepts=[{fields}]"


def config(tmp_path, *overrides, **fields):
    return load(None, ["train.init=./any", "train.batch_size=2", concepts(tmp_path, **fields), *overrides])


def only(paths):
    (square,) = dreambooth.load_squares(paths, SIDE_PX)
    return square


def pixels(square, tmp_path):
    (tmp_path / "square.png").write_bytes(square.png)
    return np.asarray(Image.open(tmp_path / "square.png").convert("RGB"))


def test_an_image_is_rotated_upright_and_cropped_to_its_centre(tmp_path):
    lying = Image.Exif()
    lying[0x0112] = 6  # the camera was turned: rotate clockwise to see it upright
    plain = photo(tmp_path / "plain.png", (16, 24))
    turned = photo(tmp_path / "turned.png", (24, 16), exif=lying)
    assert pixels(only([plain]), tmp_path).shape == (SIDE_PX, SIDE_PX, 3)
    assert tuple(pixels(only([plain]), tmp_path)[0, 8]) == (200, 30, 60)  # 2 of the band's 6 rows are left
    assert tuple(pixels(only([turned]), tmp_path)[8, 15]) == (200, 30, 60)  # the band is at the right now


def test_an_image_id_depends_on_pixels_and_not_on_the_file(tmp_path):
    files = [photo(tmp_path / "a.png"), photo(tmp_path / "b.webp", lossless=True), photo(tmp_path / "c.png", colour=1)]
    first, second, third = dreambooth.load_squares(files, SIDE_PX)
    assert first.image_id == second.image_id != third.image_id


def test_a_file_that_is_not_an_image_is_named(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"cannot read the image .*bad\.jpg: .*; convert it to JPEG or PNG"):
        list(dreambooth.load_squares([photo(tmp_path / "good.jpg"), tmp_path / "bad.jpg"], SIDE_PX))


def test_other_files_of_a_folder_are_passed_by(tmp_path):
    for name in ("notes.txt", ".hidden.jpg"):
        (tmp_path / "subject" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "subject" / name).write_text("")
    (found,) = dreambooth.concept_folders(config(tmp_path))
    assert [path.name for path in found.image_files()] == ["one.jpg"]


def test_a_class_without_a_folder_gets_one_under_the_run(tmp_path):
    subject, its_class = dreambooth.concept_folders(config(tmp_path, "run=rex", class_prompt="a cat"))
    assert (subject.is_class, its_class.is_class) == (False, True)
    assert str(its_class.folder) == "runs/rex/class-0"


def test_concepts_of_one_class_share_its_images(tmp_path):
    photo(tmp_path / "other" / "one.jpg")
    both = [{"instance_prompt": f"a photo of {word} cat", "instance_folder": str(tmp_path / word),
             "class_prompt": "a cat"} for word in ("subject", "other")]  # fmt: skip
    photo(tmp_path / "subject" / "one.jpg")
    found = dreambooth.concept_folders(
        load(None, ["train.init=./any", "train.batch_size=2", f"train.dreambooth.concepts={both}"])
    )
    assert [each.is_class for each in found] == [False, False, True]


def test_a_class_of_no_weight_is_left_out(tmp_path):
    assert (
        len(dreambooth.concept_folders(config(tmp_path, "train.dreambooth.prior_weight=0", class_prompt="a cat"))) == 1
    )


@pytest.mark.parametrize(
    ("overrides", "fields", "problem"),
    [
        ([], {"instance_folder": "/no/where"}, r"instance_folder=/no/where is no folder"),
        ([], {"instance_prompt": " "}, r"concepts\.0\.instance_prompt is empty"),
        ([], {"class_folder": "x"}, r"concepts\.0: class_folder without class_prompt"),
        (
            [],
            {"class_prompt": "a cat", "class_folder": "{}/subject"},
            r"subject is for two prompts, 'a photo of zwx cat'",
        ),
        (["train.init="], {}, r"name its pipeline with train\.init"),
        (["train.batch_size=3"], {"class_prompt": "a cat"}, r"batch_size=3 is odd.*give 4"),
    ],
)
def test_invalid_concepts_are_refused_before_any_work(tmp_path, overrides, fields, problem):
    fields = {name: value.format(tmp_path) for name, value in fields.items()}
    with pytest.raises(ConfigError, match=problem):
        dreambooth.concept_folders(config(tmp_path, *overrides, **fields))


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty holds no image"):
        dreambooth.concept_folders(config(tmp_path, instance_folder=str(tmp_path / "empty")))


def deal_of(is_class, *overrides):
    is_class = np.array(is_class)
    concept = "train.dreambooth.concepts=[{instance_prompt: zwx cat, instance_folder: one, class_prompt: a cat}]"
    return instance_class_halves(is_class)(tiny.config(concept, *overrides).train, np.arange(len(is_class)))


CLASSES = [False, True, True, False, True, True, False]


def test_a_batch_is_half_subjects_half_classes_on_any_number_of_workers():
    deal = deal_of(CLASSES, "train.batch_size=12")
    whole, weights = deal(5, range(12))
    assert [CLASSES[row] for row in whole] == [False, True] * 6
    for share in (1, 2, 3, 4, 6):
        parts = [deal(5, range(start, start + share)) for start in range(0, 12, share)]
        assert np.array_equal(np.concatenate([rows for rows, _ in parts]), whole)
        assert np.array_equal(np.concatenate([part for _, part in parts]), weights)


def test_each_half_of_the_batch_iterates_over_its_own_images():
    deal = deal_of(CLASSES, "train.batch_size=6")
    rows = np.concatenate([deal(step, range(6))[0] for step in range(4)])
    assert np.bincount(rows, minlength=7)[[0, 3, 6]].tolist() == [4, 4, 4]
    assert np.bincount(rows, minlength=7)[[1, 2, 4, 5]].tolist() == [3, 3, 3, 3]


def test_the_loss_is_that_of_the_subjects_plus_the_weighted_one_of_the_classes():
    _, weights = deal_of(CLASSES, "train.batch_size=4", "train.dreambooth.prior_weight=0.5")(0, range(4))
    losses = np.array([1.0, 10.0, 3.0, 30.0])
    assert (losses * weights).mean() == pytest.approx(losses[::2].mean() + 0.5 * losses[1::2].mean())


def test_without_class_images_every_position_shows_a_subject():
    rows, weights = deal_of([False] * 3)(0, range(4))
    assert set(rows) == {0, 1, 2}
    assert weights.tolist() == [1, 1, 1, 1]


def test_a_validation_fraction_that_leaves_nothing_is_refused():
    with pytest.raises(DatasetError, match="holds out all of the 6 images"):
        tiny.task(tiny.config("train.validation_fraction=1"))


@pytest.mark.slow
def test_dreambooth_trains_unet_and_text_encoder_of_a_pipeline(tmp_path, tiny_pipeline):
    torch.set_num_threads(1)
    config = load("dreambooth", [
        "run=tiny", f"store={tmp_path / 'store'}", f"train.init={tiny_pipeline}", "latents.size_px=32", LEVELS,
        "latents.max_tokens=16", "train.beta_end=0.02", "train.steps=2", "train.optimizer=adamw",
        "train.precision=fp32", "train.lr=1e-2", "train.sample_every=null", "train.gpus_per_worker=0",
    ])  # fmt: skip
    frozen = load_frozen(config, Store(config.store), tmp_path)
    squares = list(
        dreambooth.load_squares([photo(tmp_path / f"{c}.png", colour=c) for c in ("red", "blue", "tan")], 32)
    )
    ids = [square.image_id for square in squares]
    moments = np.zeros((2, 3, 4, 16, 16), np.float32) + np.array([0.5, -6.0], np.float32)[:, None, None, None, None]
    captions = ["", "a zwx cat", "a cat"]
    commit(Store(config.store), LATENTS, latent_rows(ids, frozen.vae.key, *moments))
    commit(Store(config.store), TEXT_EMBEDDINGS, text_rows(captions, frozen.text.key, frozen.text.encode(captions)))
    lesson = DreamBoothData({ids[0]: ("a zwx cat",), ids[1]: ("a cat",), ids[2]: ("a cat",)}, frozenset(ids[1:]))
    run_context = tiny.run_context(config, tmp_path)
    task = load_task(lesson, run_context)
    drawn = task.prepare_batch(0, range(2))
    assert drawn.text["input_ids"].tolist() == frozen.text.tokenizer(
        ["a zwx cat", "a cat"], padding="max_length", max_length=16
    ).input_ids  # fmt: skip
    fit(task, build_training_args(config, "train"), run_context, torch.device("cpu"))
    newest = checkpoints.newest_checkpoint(run_context.store, "tiny", "unet").fetch(tmp_path / "cache", "pipeline")
    learned = load_frozen(config.model_copy(update={"latents": config.latents.model_copy(
        update={"vae": str(newest), "text_encoder": str(newest)})}), run_context.store, tmp_path)  # fmt: skip
    assert learned.vae.key == frozen.vae.key
    assert learned.text.key != frozen.text.key


def test_a_class_folder_with_enough_images_needs_no_generated_ones(tmp_path):
    for number in range(3):
        photo(tmp_path / "cats" / f"{number}.png", colour=(number, 0, 0))
    settings = config(
        tmp_path, "train.dreambooth.num_class_images=2", class_prompt="a cat", class_folder=str(tmp_path / "cats")
    )
    _, its_class = dreambooth.concept_folders(settings)
    own = list(dreambooth.load_squares(its_class.image_files(), SIDE_PX))
    assert dreambooth_job._generate_class_images(settings, its_class) == 0
    assert dreambooth_job._concept_images(settings, its_class, own) == own[:2]


@pytest.mark.parametrize(
    ("overrides", "error", "problem"),
    [
        (["train.num_workers=4", "train.min_workers=3"], ConfigError, "cannot be shared by 3 workers"),
        (["train.optimizer=adamw8bit"], ConfigError, "needs bitsandbytes"),
        (["train.gpus_per_worker=1"], JobError, "train needs 1 GPU for 1 workers, the cluster has 0"),
    ],
)
def test_what_the_workers_would_refuse_is_refused_before_class_images_are_generated(
    tmp_path, tiny_pipeline, monkeypatch, overrides, error, problem
):
    settings = config(
        tmp_path, f"train.init={tiny_pipeline}", f"store={tmp_path / 'store'}", "train.batch_size=4", LEVELS,
        "train.beta_end=0.02", "train.prediction_type=epsilon", "train.zero_stage=0", "train.num_workers=1",
        *overrides, class_prompt="a cat", class_folder=str(tmp_path / "cats"),
    )  # fmt: skip
    monkeypatch.setattr(distributed, "find_spec", lambda name: None)
    monkeypatch.setattr(dreambooth_job.ray_runtime, "connect", lambda settings: None)
    monkeypatch.setattr(dreambooth_job.ray_runtime.ray, "cluster_resources", lambda: {"CPU": 8.0})
    monkeypatch.setattr(dreambooth_job.ray_runtime, "can_autoscale", lambda: False)
    monkeypatch.setattr(dreambooth_job, "_run_on_worker", lambda train, task, *arguments: task(*arguments))
    monkeypatch.setattr(dreambooth_job.generate, "run", lambda settings: pytest.fail("it was drawn"))
    with pytest.raises(error, match=problem):
        dreambooth_job.run(settings)
