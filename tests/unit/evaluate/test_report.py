"""What the report holds; tests/browser/test_report.py looks at the page."""

import numpy as np
import pyarrow as pa
import pytest

from emoji_ldm.config import Config
from emoji_ldm.dataset.lineage import Lineage, RunInfo
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import DatasetError
from emoji_ldm.evaluate.evaluation_page import data_uri
from emoji_ldm.evaluate.report import DEMO_SHEET, SHOWN_GENERATED, collect_report_data, write_report
from emoji_ldm.schemas import GENERATED, IMAGES, OUTCOMES
from emoji_ldm.store import Store
from tests.generation_requests import image_file


@pytest.fixture
def config(tmp_path):
    return Config(run="mine", store=str(tmp_path / "store"))


def commit(config, spec, rows, *, name):
    table = Table(Store(config.store), spec)
    filled = [{column: row.get(column) for column in spec.schema.names} for row in rows]
    lineage = Lineage(RunInfo(config.run, config.to_json()), "test", {}).metadata({"rows": len(rows)}, name)
    table.commit([table.write_file(pa.Table.from_pylist(filled, spec.schema))], app_id=name, metadata=lineage)


def image(value):
    """A cell of an image column: 8 px in one opaque grey."""
    pixels = np.full((8, 8, 4), value, np.uint8)
    pixels[..., 3] = 255
    return {"bytes": image_file(pixels)}


def generate(config, run, seeds):
    """Commit generated images of a run."""
    rows = [{"generated_id": f"{run}-{seed}", "image": image(seed % 256), "prompt": run, "seed": seed,
             "steps": 3, "guidance_scale": 1.0} for seed in seeds]  # fmt: skip
    commit(config.model_copy(update={"run": run}), GENERATED, rows, name=f"{run}-{seeds[0]}")


def shown(config):
    data = collect_report_data(config, Store(config.store))
    return [(row["prompt"], row["seed"]) for row in data["generated"]], data["generated_by_run"]


def test_the_generated_images_are_the_newest_of_the_run_newest_first(config):
    generate(config, "mine", range(40))
    generate(config, "mine", range(40, 50))
    generate(config, "other", range(50, 90))
    images, by_run = shown(config)
    assert images == [("mine", seed) for seed in range(49, 49 - SHOWN_GENERATED, -1)] and by_run


def test_a_run_with_few_images_shows_only_its_own(config):
    generate(config, "mine", range(2))
    generate(config, "other", range(40))
    assert shown(config) == ([("mine", 1), ("mine", 0)], True)


def test_a_run_that_generated_nothing_shows_the_newest_of_all_and_says_so(config, tmp_path):
    generate(config, "other", range(3))
    assert shown(config) == ([("other", 2), ("other", 1), ("other", 0)], False)
    page = write_report(config, tmp_path / "report.html").read_text()
    assert "This run added no image to the table" in page


def test_each_generated_image_has_its_nearest_crawled_one(config):
    commit(config, IMAGES, [{"image_id": str(value), "image": image(value), "title": f"grey {value}"}
                            for value in (0, 100, 200)], name="images")  # fmt: skip
    generate(config, "mine", [105, 200])
    rows = collect_report_data(config, Store(config.store))["generated"]
    assert [row["nearest"]["title"] for row in rows] == ["grey 200", "grey 100"]
    assert rows[0]["distance"] == pytest.approx(0, abs=1e-3) and 0.003 < rows[1]["distance"] < 0.1


def test_outcomes_are_counted_by_kind_with_an_example(config):
    rows = [{"url": str(number), "kind": "image", "outcome": "dead" if number else "kept", "reason": f"reason {number}"}
            for number in range(4)]  # fmt: skip
    commit(config, OUTCOMES, rows, name="outcomes")
    data = collect_report_data(config, Store(config.store))
    assert data["outcomes"] == {"image": [("dead", 3, "reason 1"), ("kept", 1, "reason 0")]}
    assert data["counts"] == {"outcomes": 4}


def test_a_report_without_a_table_is_refused_with_the_command_that_makes_one(config, tmp_path):
    with pytest.raises(DatasetError, match="emoji-ldm crawl"):
        write_report(config, tmp_path / "report.html")


def test_the_sheet_of_the_demo_is_shown_once_it_is_there(config, tmp_path):
    generate(config, "mine", range(2))
    assert "Side by side" not in write_report(config, tmp_path / "report.html").read_text()
    Store(config.store).write(image(9)["bytes"], "runs", "mine", DEMO_SHEET)
    page = write_report(config, tmp_path / "report.html").read_text()
    assert "Side by side" in page and data_uri(image(9)["bytes"]) in page
