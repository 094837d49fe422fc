"""The report in a real browser: every image shows and nothing overflows, at desktop and phone width."""

import io
import json
import random
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image, ImageDraw
from selenium import webdriver

from emoji_ldm.config import Config
from emoji_ldm.dataset.lineage import Lineage, RunInfo
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import DatasetError
from emoji_ldm.evaluate.report import write_report
from emoji_ldm.schemas import CAPTIONS, GENERATED, IMAGES, OUTCOMES
from emoji_ldm.store import Store

NUM_IMAGES = 30


def disc(hue):
    image = Image.new("RGBA", (64, 64))
    ImageDraw.Draw(image).ellipse((8, 8, 56, 56), fill=(hue * 8 % 256, 120, 255 - hue * 8 % 256, 255))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def commit(config, spec, rows, parents):
    table = Table(Store(config.store), spec)
    filled = [{name: row.get(name) for name in spec.schema.names} for row in rows]
    lineage = Lineage(RunInfo(config.run, config.to_json()), "test", parents).metadata({"rows": len(rows)}, "one")
    table.commit([table.write_file(pa.Table.from_pylist(filled, spec.schema))], app_id="one", metadata=lineage)


def log(count):
    """Log lines as a training writes them, with noise, a validation every tenth line and one skipped step."""
    draw = random.Random(0)
    lines = [{"step": 10 * n, "loss": (0.06 + 1 / n) * draw.uniform(0.8, 1.2), "lr": 1e-3, "skipped": int(n > 9),
              "grad_norm": (0.3 + 2 / n) * draw.uniform(0.7, 1.4), "images_per_s": draw.gauss(90, 4), "step_s": 0.178,
              "data_wait": 0.002, "memory_mb": [812, 799], "time_s": n * 1.8} for n in range(1, count + 1)]  # fmt: skip
    for line in lines[9::10]:
        line |= {"validation_loss": line["loss"] * 1.2, "validation_loss_ema": line["loss"] * 1.1}
    lines[9]["bad"] = {"97": "nan"}
    return lines


@pytest.fixture
def config(tmp_path):
    config = Config(run="shown", store=str(tmp_path / "store"))
    ids = [f"id-{number:02}" for number in range(NUM_IMAGES)]
    commit(config, IMAGES, [{"image_id": key, "image": disc(n), "title": f"disc {n}"} for n, key in enumerate(ids)], {})
    about = {"engine": "metadata", "status": "ok"}
    captions = [{"caption_id": key, "image_id": key, "caption": f"a disc called {key} " * 4, **about} for key in ids]
    commit(config, CAPTIONS, captions, {"images": 1})
    outcomes = [{"url": key, "kind": "image", "outcome": "kept", "reason": "new picture"} for key in ids]
    commit(config, OUTCOMES, [*outcomes, {"url": "x", "kind": "image", "outcome": "dead", "reason": "404 " * 9}], {})
    made = {"prompt": "a very long prompt about a disc with no end", "seed": 3, "steps": 30, "guidance_scale": 3.0}
    commit(config, GENERATED, [{"generated_id": "g", "image": disc(3), **made}], {"images": 1})
    store = Store(config.store)
    store.write("\n".join(map(json.dumps, log(60))).encode(), "runs", "shown", "train", "losses.jsonl")
    for step in (200, 400, 600):
        store.write(disc(step)["bytes"], "runs", "shown", "train", "samples", f"step-{step:08}.png")
    stage = {"stage": "crawl", "seconds": 12.5, "peak_mb": 800, "summary": {"images": "30"}}
    store.write(json.dumps(stage).encode(), "runs", "shown", "stages", "1-crawl.json")
    return config


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                 "--disable-background-networking", "--disable-component-update", "--no-first-run"):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
    yield driver
    driver.quit()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1440, 390])
def test_every_image_shows_and_nothing_overflows(config, browser, width, tmp_path):
    path = write_report(config, tmp_path / "report.html")
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600})  # fmt: skip
    browser.get(path.as_uri())
    sizes = browser.execute_script("return [...document.images].map(image => image.naturalWidth)")
    assert len(sizes) >= 24 + 2 + 3 and min(sizes) > 0
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script("return document.querySelector('svg.chart .mean path').getTotalLength()") > 100
    assert len(browser.find_elements("css selector", "svg.chart .validation use")) == 6
    assert len(browser.find_elements("css selector", "svg.chart")) == 2
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    text = browser.find_element("tag name", "body").text
    for words in (
        "shown",
        "metadata",
        "nearest: disc 3",
        "kept",
        "dead",
        "images@1",
        "12.5 s",
        "800 MB",
        "812 / 799 MB",
        "178 ms",
        "Gradient norm",
        "step 400",
    ):
        assert words in text


def test_a_report_of_half_a_run_names_the_missing_commands(tmp_path):
    config = Config(run="half", store=str(tmp_path / "store"))
    commit(config, IMAGES, [{"image_id": "a", "image": disc(1), "title": "disc"}], {})
    text = write_report(config, tmp_path / "report.html").read_text()
    assert "emoji-ldm train run=half" in text and "emoji-ldm generate" in text


def test_a_report_of_an_empty_store_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="emoji-ldm crawl"):
        write_report(Config(store=str(tmp_path / "store")), Path(tmp_path / "report.html"))
