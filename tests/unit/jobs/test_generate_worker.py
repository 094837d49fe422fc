"""The actor of generation over a tiny real model."""

from __future__ import annotations

import io

import pyarrow as pa
import pytest
from PIL import Image

from emoji_ldm.config import build
from emoji_ldm.errors import ModelError
from emoji_ldm.generate.checkpoint_resolver import model_key
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.schemas import GENERATED
from ray_jobs.workers.generate_worker import GenerateTask, GenerateWorker

EXAMPLE = GenerationRequest("a cat", seed=1, steps=2)


def worker(tmp_path, pipeline, key):
    config = build({"store": str(tmp_path), "generate": {"batch_size": 2}}, where="test")
    return GenerateWorker(config, GenerateTask(str(pipeline), key, {"latents": 3}, EXAMPLE))


def test_each_request_is_a_row_whose_file_says_how_it_was_made(tmp_path, tiny_pipeline):
    key = model_key(tiny_pipeline)
    rows = [{"generated_id": f"id{seed}", "prompt": "a dog", "negative_prompt": "", "seed": seed, "steps": 2,
             "guidance_scale": 3.0} for seed in (7, 8, 9)]  # fmt: skip
    output = worker(tmp_path, tiny_pipeline, key)(pa.Table.from_pylist(rows))
    assert output.rows.schema == GENERATED.schema and output.counts == {"images": 3}
    made = output.rows.to_pylist()
    assert [(row["generated_id"], row["seed"], row["model_key"]) for row in made] == [
        (f"id{seed}", seed, key) for seed in (7, 8, 9)
    ]
    with Image.open(io.BytesIO(made[1]["image"]["bytes"])) as image:
        assert image.size == (32, 32) and image.info["seed"] == "8" and image.info["prompt"] == "a dog"


def test_a_model_that_changed_since_the_plan_is_refused(tmp_path, tiny_pipeline):
    with pytest.raises(ModelError, match="is another one on this node, or changed meanwhile"):
        worker(tmp_path, tiny_pipeline, "another key")
