from pathlib import Path

import pytest

from emoji_ldm.config import build
from emoji_ldm.dataset.table import Table
from emoji_ldm.generate.offline_sampler import OfflineSampler
from emoji_ldm.generate.pipeline_loader import load_model, sampling_device
from emoji_ldm.generate.png_metadata import clear_faint_pixels, read_request
from emoji_ldm.schemas import GENERATED
from emoji_ldm.store import Store
from tests.tiny_pipelines import pixels_of


def settings(tmp_path, model, **generate):
    generate = {"checkpoint": str(model), "steps": 3, "batch_size": 2, "rows_per_shard": 2, **generate}
    generate["output"] = str(tmp_path / "out")
    return build({"store": str(tmp_path / "store"), "generate": generate, "ray": {"num_cpus": 4}}, where="test")


@pytest.mark.slow
def test_every_draw_is_made_once_and_the_folder_is_mended(tmp_path, tiny_pipeline):
    from ray_jobs import generate

    first = generate.run(settings(tmp_path, tiny_pipeline, prompts=["a cat", "a dog"], num_images=2))
    assert (first["images"], first["new"]) == (4, 4)
    rows = Table(Store(str(tmp_path / "store")), GENERATED).read().to_pylist()
    sampler = OfflineSampler(load_model(tiny_pipeline, sampling_device(0)), 2)
    for row in rows:
        draw = read_request(row["image"]["bytes"])
        assert (draw.prompt, draw.seed) == (row["prompt"], row["seed"])
        assert (pixels_of(row["image"]["bytes"]) == clear_faint_pixels(sampler([draw])[0])).all()

    missing = tmp_path / "out" / "0001_a-cat_1.png"
    content = missing.read_bytes()
    missing.unlink()
    again = generate.run(settings(tmp_path, tiny_pipeline, prompts=["a cat", "a dog"], num_images=2))
    assert (again["images"], again["new"], again["version"]) == (4, 0, first["version"])
    assert missing.read_bytes() == content

    more = generate.run(settings(tmp_path, tiny_pipeline, prompts=["a cat", "a dog"], num_images=3))
    assert (more["images"], more["new"]) == (6, 2)
    assert len(rows) + 2 == Table(Store(str(tmp_path / "store")), GENERATED).count()
    assert Path(str(more["sheet"])).is_file()
