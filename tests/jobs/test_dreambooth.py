"""DreamBooth over a real local Ray: class images are drawn, all images are encoded once, both networks learn."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiffusionPipeline

from emoji_ldm.config import load
from emoji_ldm.dataset import checkpoints
from emoji_ldm.dataset.table import Table
from emoji_ldm.schemas import GENERATED, LATENTS, TEXT_EMBEDDINGS
from emoji_ldm.store import Store
from ray_jobs import train
from tests.unit.train.tasks.test_dreambooth import photo

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture
def prepared(tiny_pipeline, tmp_path):
    """The preset on a tiny pipeline: a subject with a class of two own images, and one without a class."""
    for name, colour in (("rex", "brown"), ("rex", "tan"), ("mia", "grey")):
        photo(tmp_path / name / f"{colour}.jpg", colour=colour)
    for colour in ("black", "white"):
        photo(tmp_path / "dogs" / f"{colour}.png", (64, 32), colour=colour)
    concepts = [
        {"instance_prompt": "a zwx dog", "instance_folder": str(tmp_path / "rex"),
         "class_prompt": "a dog", "class_folder": str(tmp_path / "dogs")},
        {"instance_prompt": "a qmr cat", "instance_folder": str(tmp_path / "mia")},
    ]  # fmt: skip
    return lambda *overrides: load("dreambooth", [
        "run=rex", f"store={tmp_path / 'store'}", f"train.init={tiny_pipeline}",
        f"train.dreambooth.concepts={concepts}",
        "latents.size_px=32", "latents.max_tokens=16", "latents.gpus_per_worker=0", "generate.gpus_per_worker=0",
            "train.gpus_per_worker=0",
        "generate.steps=2", "generate.num_images=1", "generate.num_workers=2", "generate.rows_per_shard=2",
        "train.optimizer=adamw", "train.precision=fp32", "train.dreambooth.num_class_images=5", "train.lr=1e-3",
        "train.beta_start=0.0001", "train.beta_end=0.02",  # what the tiny pipeline was made for
        "train.num_workers=2", "train.zero_stage=3", "train.checkpoint_every=2", "train.sample_every=2", *overrides,
    ])  # fmt: skip


@pytest.mark.slow
def test_a_run_does_all_and_again_does_nothing_twice(prepared, tiny_pipeline, tmp_path):
    config = prepared("train.steps=2")
    store = Store(config.store)
    first = train.run(config)
    assert (first["subject images"], first["class images"]) == (3, "5 (3 drawn now)")
    assert first["images encoded"] == 8
    assert len(list((tmp_path / "dogs" / "generated").glob("*a-dog*.png"))) == 3
    assert store.exists("runs", "rex", "train", "samples", "step-00000002.png")
    newest = checkpoints.newest_checkpoint(store, "rex", "unet")
    assert newest.manifest()["config"]["train"]["sample_prompts"] == ["a zwx dog", "a qmr cat", "a dog"]
    before = DiffusionPipeline.from_pretrained(tiny_pipeline)
    after = DiffusionPipeline.from_pretrained(newest.fetch(tmp_path / "cache", "pipeline"))
    for part in ("unet", "text_encoder"):
        pairs = zip(getattr(before, part).parameters(), getattr(after, part).parameters(), strict=True)
        assert any(not torch.equal(*pair) for pair in pairs)

    versions = [Table(store, spec).version for spec in (GENERATED, LATENTS, TEXT_EMBEDDINGS)]
    assert "already" in str(train.run(config)["steps"])
    more = train.run(prepared("train.steps=3"))
    assert (more["class images"], more["images encoded"], more["steps"]) == ("5 (0 drawn now)", 0, 3)
    assert [Table(store, spec).version for spec in (GENERATED, LATENTS, TEXT_EMBEDDINGS)] == versions
