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
from emoji_ldm.evaluate.evaluation import EvaluatedSystem, Evaluation
from emoji_ldm.evaluate.evaluation_page import PageRow, render_page
from emoji_ldm.evaluate.figures import FIGURES
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


def evaluation(run):
    figures = {**dict.fromkeys(FIGURES), "kid": 0.0421, "kid_low": 0.03, "kid_high": 0.05, "copy_rate": 0.25}
    system = EvaluatedSystem("a model with a long name", "/models/a", "key", {"steps": 25, "seeds": [0, 1]}, 8, figures)
    data = {"num_reference": 50, "reference": "held_out", "size_px": 64}
    return Evaluation("20260101T000000-000_shown", run, "now", "0", "EfficientNet-Lite0", data, [system] * 3,
                      {"kid": 0.001}, [], ["a gate failed"])  # fmt: skip


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
    store.write(evaluation("shown").to_json().encode(), "evaluations", "20260101T000000-000_shown.json")
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
    assert len(sizes) >= 24 + 1 + 3 and min(sizes) > 0
    assert_grounds_can_be_changed(browser)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    inside = """return [...document.querySelectorAll('.pair')].every(one =>
        one.scrollWidth <= one.closest('.card').clientWidth)"""
    assert browser.execute_script(inside)
    assert browser.execute_script("return document.querySelector('svg.chart .mean path').getTotalLength()") > 100
    assert len(browser.find_elements("css selector", "svg.chart .validation use")) == 6
    assert len(browser.find_elements("css selector", "svg.chart")) == 2
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    text = browser.find_element("tag name", "body").text
    for words in (
        "shown",
        "KID (EfficientNet-Lite0)",
        "0.0421",
        "a gate failed",
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


def assert_grounds_can_be_changed(browser):
    """A generated picture lies on a ground without a tint, which the switch changes; small copies keep theirs."""
    style = "return getComputedStyle(document.querySelector('.looks {}'), {})['{}']"
    assert "data:image/png" in browser.execute_script(style.format(".large", "'::after'", "backgroundImage"))
    assert "conic" in browser.execute_script(style.format(".large", "null", "backgroundImage"))
    seen = []
    for ground in ("neutral", "dark"):
        browser.find_element("css selector", f"input[value={ground}]").click()
        color = browser.execute_script(style.format(".large", "null", "backgroundColor"))
        channels = [int(value) for value in color.removeprefix("rgb(").removesuffix(")").split(",")]
        assert max(channels) - min(channels) <= 6  # gray, so that it cannot be taken for a part of the picture
        seen.append(channels[0])
    assert seen[0] > 180 > 60 > seen[1]


@pytest.mark.slow
@pytest.mark.parametrize("width", [1440, 390])
def test_the_page_of_an_evaluation_shows_every_picture_and_does_not_overflow(browser, width, tmp_path):
    picture = disc(3)["bytes"]
    names = ("pretrained", "from scratch", "fine-tuned on my own images")
    rows = [PageRow("pair", "a prompt of very many words " * 6, picture, {name: [picture] * 2 for name in names})] * 3
    path = tmp_path / "page.html"
    path.write_text(render_page(evaluation("shown"), rows))
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600})  # fmt: skip
    browser.get(path.as_uri())
    assert len(browser.find_elements("css selector", ".looks .large")) == 3 * 7
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    inside = """return [...document.querySelectorAll('.looks')].every(one =>
        one.getBoundingClientRect().right <= one.closest('.prompt').getBoundingClientRect().right)"""
    assert browser.execute_script(inside)
    assert_grounds_can_be_changed(browser)


def test_a_report_of_half_a_run_names_the_missing_commands(tmp_path):
    config = Config(run="half", store=str(tmp_path / "store"))
    commit(config, IMAGES, [{"image_id": "a", "image": disc(1), "title": "disc"}], {})
    text = write_report(config, tmp_path / "report.html").read_text()
    assert "emoji-ldm train run=half" in text and "emoji-ldm generate" in text


def test_a_report_of_an_empty_store_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="emoji-ldm crawl"):
        write_report(Config(store=str(tmp_path / "store")), Path(tmp_path / "report.html"))
