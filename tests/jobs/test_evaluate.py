"""Evaluation end to end on local Ray: models and folders, what is kept, gates."""

import io
from pathlib import Path

import pytest
from PIL import Image

from emoji_ldm.config import build
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import ConfigError, DatasetError, GateError, ModelError
from emoji_ldm.evaluate.evaluation import newest_evaluation
from emoji_ldm.evaluate.prompts import GRID
from emoji_ldm.schemas import GENERATED
from emoji_ldm.store import Store
from tests.caption_rows import fill_captions
from tests.emoji_images import blobs, fill_images
from tests.tiny_pipelines import write_pipeline

NUM_IMAGES = 110


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Real emoji with captions that state style and name."""
    store = Store(str(tmp_path_factory.mktemp("evaluate") / "store"))
    store.check_writable()
    pictures = blobs(NUM_IMAGES)
    ids = fill_images(store, pictures)
    fill_captions(store, [(image_id, "human", f"{one.style} style: {one.title.lower()}, {one.tags[0]}")
                          for image_id, one in zip(ids, pictures, strict=True)])  # fmt: skip
    return store


def settings(store, **evaluate):
    return build(
        {
            "store": store.uri, "ray": {"num_cpus": 4}, "train": {"validation_fraction": 0.2},
            "generate": {"steps": 2, "batch_size": 4},
            "evaluate": {"num_prompts": 6, "images_per_prompt": 2, **evaluate},
        },
        where="test",
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_models_are_compared_and_the_evaluation_is_kept(store, tiny_pipeline, tmp_path, monkeypatch):
    from ray_jobs import evaluate

    monkeypatch.chdir(tmp_path)
    other = write_pipeline(tmp_path / "other", seed=1)
    config = settings(store, checkpoints=[str(tiny_pipeline), str(other)], compare=True)
    summary = evaluate.run(config)
    found = newest_evaluation(store, config.run)
    assert found is not None and [system.num_pictures for system in found.systems] == [12, 12]
    first, second = found.systems
    assert first.model_key != second.model_key and second.name == "other"
    assert first.settings["steps"] == 2 and first.settings["seeds"] == [0, 1] and "EMA" not in first.settings["weights"]
    # Random networks draw noise, which is nowhere near the likeness that real emoji have to each other.
    assert first.figures["kid_low"] > max(found.real["kid_high"], 0.3)
    assert first.figures["seconds_per_image"] > 0 and first.figures["peak_memory_mb"] > 100
    for name in ("concept_top5", "truth_top5", "diversity", "fringe", "legible_32px", "copy_rate"):
        assert first.figures[name] is not None, name
    assert first.figures["clip_score"] is None and first.figures["style_right"] is None  # one style only
    assert 0 < found.real["concept_top5"] <= 1 and first.grid.keys() >= {"concept_top5"}
    page = Path(str(summary["page"])).read_text()
    assert page.encode() == store.read("evaluations", f"{found.id}.html")
    assert all(cell.prompt in page for cell in GRID) and page.count("real picture<") == 6


@pytest.mark.long
@pytest.mark.timeout(900)
def test_pictures_are_drawn_once_and_a_gate_fails_the_run(store, tiny_pipeline, tmp_path, monkeypatch):
    from ray_jobs import evaluate

    monkeypatch.chdir(tmp_path)
    evaluate.run(settings(store, checkpoints=[str(tiny_pipeline)], compare=True))
    found = newest_evaluation(store, "default")
    assert found is not None
    drawn = Table(store, GENERATED).count()
    with pytest.raises(GateError, match=r"kid is .*gate kid > 0\.1"):
        evaluate.run(settings(store, checkpoints=[str(tiny_pipeline)], fail_if=["kid > 0.1"]))
    assert Table(store, GENERATED).count() == drawn
    again = newest_evaluation(store, "default")
    assert again is not None and again.id != found.id and again.failed
    # The candidates of the probe, and so its ranks, depend on the grid; all other figures are the same in every run.
    for name in ("kid", "kid_low", "frechet_lite0", "precision", "coverage", "diversity", "fringe", "copy_distance"):
        assert again.systems[0].figures[name] == pytest.approx(found.systems[0].figures[name], rel=1e-6), name


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_folder_of_real_emoji_is_like_real_emoji_and_copies_are_found(store, tmp_path, monkeypatch):
    from ray_jobs import evaluate

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "drawn"
    folder.mkdir()
    for number, one in enumerate(blobs(NUM_IMAGES)[::4]):
        Image.open(io.BytesIO(one.data)).save(folder / f"{number:04d}_{one.title.lower().replace(' ', '-')}_0.png")
    evaluate.run(settings(store, images=str(folder), reference="all", num_prompts=48, images_per_prompt=4))
    found = newest_evaluation(store, "default")
    assert found is not None
    (system,) = found.systems
    assert system.num_pictures == 28 and abs(system.figures["kid"]) < 0.1 and system.figures["precision"] > 0.8
    # Most of them are in the training part, so that they are copies; the others were held out.
    assert system.figures["copy_rate"] > 0.6 and system.figures["truth_top5"] is None
    assert system.figures["concept_top5"] > found.real["concept_top5"]  # the probe knows most of them


@pytest.mark.long
@pytest.mark.timeout(900)
def test_retrieval_is_judged_like_a_model_and_finds_only_copies_of_training_pictures(store, tmp_path, monkeypatch):
    from ray_jobs import evaluate

    monkeypatch.chdir(tmp_path)
    drawn = Table(store, GENERATED).count()
    summary = evaluate.run(settings(store, checkpoints=["retrieval"], compare=True, num_prompts=16))
    found = newest_evaluation(store, "default")
    assert found is not None and Table(store, GENERATED).count() == drawn
    (system,) = found.systems
    # Real pictures: as likely and as clean as any, and each of them a copy.
    assert (system.name, system.model_key, system.num_pictures) == ("retrieval", "", 16)
    assert system.figures["copy_rate"] == 1 and system.figures["copy_distance"] == 0
    assert system.figures["precision"] > 0.8 and system.figures["kid_low"] < 0.1
    assert system.figures["diversity"] is None and system.figures["seconds_per_image"] is None
    assert system.figures["concept_top5"] is not None and system.grid.keys() >= {"concept_top5"}
    assert system.settings["images"] == found.data["num_real"] - found.data["num_held_out"]
    assert all(cell.prompt in Path(str(summary["page"])).read_text() for cell in GRID)


def test_mistakes_are_found_before_anything_is_drawn(store, tmp_path):
    from ray_jobs import evaluate

    with pytest.raises(ConfigError, match="no figure 'fid'"):
        evaluate.run(settings(store, fail_if=["fid > 3"]))
    with pytest.raises(ModelError, match="neither a pipeline folder"):
        evaluate.run(settings(store, checkpoints=[str(tmp_path / "none")]))
    with pytest.raises(ConfigError, match="is no folder"):
        evaluate.run(settings(store, images=str(tmp_path / "none"), num_prompts=48, images_per_prompt=4))
    few = build({"store": store.uri, "train": {"validation_fraction": 0.02}}, where="test")
    with pytest.raises((DatasetError, ModelError)):
        evaluate.run(few)
