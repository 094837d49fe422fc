"""Data and Training in a real browser over a real store: look, correct captions, compare versions, watch a training."""

import time

import pytest

from emoji_ldm.dataset.table import Table
from emoji_ldm.schemas import CAPTIONS
from emoji_ldm.serve.api_keys import new_key, write_keys
from emoji_ldm.serve.model_catalog import ModelCatalog
from tests.browser.studio_page import StudioPage
from tests.browser.studio_service import Studio, resize, studio
from tests.browser.studio_steps import draw, wait_drawn
from tests.stored_dataset import NUM_IMAGES, RUN, config_of, fill_dataset, grid_png, log_line, write_log

pytestmark = pytest.mark.slow
ASKED = "return performance.getEntriesByType('resource').filter(each => each.name.includes(values[0])).length"


@pytest.fixture
def page(page, stored):
    """The studio over the filled store."""
    page.ids = stored
    return page


def human_captions(store):
    rows = Table(store, CAPTIONS).read(["image_id", "engine", "caption"]).to_pylist()
    return {row["image_id"]: row["caption"] for row in rows if row["engine"] == "human"}


def open_image(page, number):
    page.click(f".card[data-id='{page.ids[number]}'] button.picture")
    page.wait("dialog textarea[name=caption]")


def correct(page, text, press="Save"):
    page.type("dialog textarea[name=caption]", text)
    page.press(press)


def test_a_data_set_is_looked_through_and_a_caption_is_corrected_and_undone(page, service):
    page.go("data")
    page.says(f"{NUM_IMAGES} emoji · {NUM_IMAGES - 1} captions")
    assert len(page.wait(".card", NUM_IMAGES)) == NUM_IMAGES
    page.wait(".card img[src^='blob:']", 4)
    assert "<img src=x" in page.text(".card") and page.script("return window.attacked ?? null") is None
    open_image(page, 1)
    page.wait("dialog .looks img")
    correct(page, "<svg onload=window.attacked=1> a round blob")
    page.says("is saved")
    assert human_captions(service.store) == {page.ids[1]: "<svg onload=window.attacked=1> a round blob"}
    page.press("Close")
    page.says("1 by a person")
    assert "by a person" in page.text(f".card[data-id='{page.ids[1]}']")
    page.undo()
    page.until(lambda: human_captions(service.store) == {})
    page.until(lambda: "by a person" not in page.text(f".card[data-id='{page.ids[1]}']"))
    assert page.script("return window.attacked ?? null") is None


def test_images_are_found_and_filtered(page):
    page.go("data")
    page.wait(".card", NUM_IMAGES)
    page.choose("[name=captions]", "uncaptioned")
    page.until(lambda: [each.get_attribute("data-id") for each in page.all(".card")] == page.ids[-1:])
    page.press("Clear the filters")
    page.wait(".card", NUM_IMAGES)
    page.type("[name=search]", "onerror")
    page.until(lambda: [each.get_attribute("data-id") for each in page.all(".card")] == page.ids[:1])
    assert "1 duplicate" in page.text(".card")
    page.type("[name=search]", "no such emoji")
    page.says("Nothing matches")


def test_whoever_corrects_goes_from_image_to_image_with_the_keyboard(page, service):
    page.go("data")
    page.wait(".card", NUM_IMAGES)
    open_image(page, 2)
    correct(page, "the third", press="Save, next")
    page.until(lambda: page.ids[2] in human_captions(service.store))
    page.until(
        lambda: page.script("return document.querySelector('dialog textarea')?.value.includes('the third')") is False
    )
    page.press("Previous")
    page.until(lambda: page.script("return document.querySelector('dialog textarea')?.value") == "the third")
    page.press("Take the correction back")
    page.says("is taken back")
    assert human_captions(service.store) == {}


def test_two_tabs_that_correct_one_caption_lose_neither(page, service):
    page.go("data")
    open_image(page, 3)
    first = page.browser.current_window_handle
    page.browser.switch_to.new_window("tab")
    try:
        resize(page.browser, page.width)
        page.browser.get(f"{page.url}/#data")
        open_image(page, 3)
        correct(page, "theirs")
        page.says("is saved")
        page.browser.switch_to.window(first)
        correct(page, "mine, longer")
        page.says("Somebody changed this caption meanwhile")
        assert "theirs" in page.text("blockquote")
        assert page.script("return document.querySelector('dialog textarea').value") == "mine, longer"
        assert human_captions(service.store) == {page.ids[3]: "theirs"}
        page.press("Save mine")
        page.says("is saved")
        assert human_captions(service.store) == {page.ids[3]: "mine, longer"}
        page.press("Take the correction back")
        page.until(lambda: human_captions(service.store) == {})
    finally:
        page.browser.switch_to.window(page.browser.window_handles[-1])
        page.browser.close()
        page.browser.switch_to.window(first)


def test_versions_are_compared_in_pictures_and_outcomes_are_listed(page):
    page.open("data/main/changes")
    page.says("Added 2")
    assert len(page.wait(".change.added", 2)) == 2
    page.wait(".change img[src^='blob:']", 2)
    page.open("data/main/outcomes")
    page.press("dead 1")
    page.until(lambda: len(page.all(".url-list li")) == 1)
    assert "https://emoji.test/gone.png" in page.text(".url-list")
    page.open("data/v1/images")
    assert len(page.wait(".card", NUM_IMAGES - 2)) == NUM_IMAGES - 2
    page.click(".card button.picture")
    page.says("This is a state of the past")
    page.open("data/nowhere")
    page.says("There is no version nowhere")


def test_what_was_typed_outlives_a_service_that_dies_and_a_reload(studio_browser, tmp_path):
    service = Studio(tmp_path)
    ids = fill_dataset(service.store)
    service.start()
    page = StudioPage(studio_browser, service.url)
    page.reset()
    page.ids = ids
    page.go("data")
    page.wait(".card", NUM_IMAGES)
    open_image(page, 0)
    service.stop()
    correct(page, "hours of work")
    page.says("The service cannot be reached")
    assert page.script("return document.querySelector('dialog textarea').value") == "hours of work"
    service.start()
    try:
        page.browser.refresh()
        open_image(page, 0)
        assert page.script("return document.querySelector('dialog textarea').value") == "hours of work"
        page.says("not saved yet")
        page.press("Save")
        page.says("is saved")
        assert human_captions(service.store) == {ids[0]: "hours of work"}
    finally:
        service.stop()


def test_a_key_that_ends_or_lacks_the_scope_is_told_and_costs_nothing(studio_browser, tmp_path):
    path = tmp_path / "keys.json"
    (plain, one), (curator, two) = new_key("a", "interactive", 0, None), new_key("b", "interactive", 0, None, ("data",))
    write_keys(str(path), (one, two))
    with studio(tmp_path, keys=path) as service:
        ids = fill_dataset(service.store)
        page = StudioPage(studio_browser, service.url)
        page.reset()
        page.ids = ids
        page.script("sessionStorage.setItem('studio.key', values[0])", plain)
        page.open("data")
        page.says("This key may not see the data")
        page.script("sessionStorage.setItem('studio.key', values[0])", curator)
        page.open("data")
        page.wait(".card img[src^='blob:']", 2)
        open_image(page, 0)
        write_keys(str(path), (one,))
        page.type("dialog textarea[name=caption]", "kept")
        time.sleep(2.5)  # until the service has read its keys again
        page.press("Save")
        page.says("unknown")
        assert page.script("return document.querySelector('dialog textarea').value") == "kept"
        assert human_captions(service.store) == {}


def test_a_training_is_watched_live_and_its_checkpoint_served(page, service):
    page.go("training")
    page.click(f"a[href='#training/{RUN}/train']")
    page.says("step 300 of 1,000")
    assert "2" in page.text("[aria-label=Figures]") and "800 MB / 820 MB" in page.text("[aria-label=Figures]")
    assert page.all("svg.chart path.curve.loss") and page.all("svg.chart path.curve.validation_loss")
    assert len(page.wait(".strip li", 4)) == 4
    page.wait(".stage[src^='blob:']")
    page.says("Step 300, 4 of 4")
    # The training goes on: the next grid and the next lines arrive by themselves.
    service.store.write(grid_png(400), "runs", RUN, "train", "samples", "step-00000400.png")
    write_log(service.store, [log_line(step) for step in range(0, 410, 10)])
    page.says("step 400 of 1,000")
    page.says("Step 400, 5 of 5")
    page.choose("[name=curve]", "images_per_s")
    page.wait("svg.chart path.curve.images_per_s")
    page.press("Serve")
    name = f"{RUN}-300"
    page.says(f"served as {name}")
    assert list(ModelCatalog(config_of(service.store)).read()) == [name]
    page.click(f"button[title='Take {name} out of use']")
    page.until(lambda: not ModelCatalog(config_of(service.store)).read())
    # The other width begins with the same training.
    service.store.remove("runs", RUN, "train", "samples", "step-00000400.png")
    write_log(service.store, [log_line(step) for step in range(0, 310, 10)])


def test_a_hidden_page_asks_nothing(page):
    page.open(f"training/{RUN}/train")
    page.says("step")
    page.script("""
        Object.defineProperty(document, 'hidden', { configurable: true, get: () => window.isHidden });
        window.isHidden = true;
        document.dispatchEvent(new Event('visibilitychange'));
        await new Promise(resolve => setTimeout(resolve, 300));
        performance.clearResourceTimings();
        await new Promise(resolve => setTimeout(resolve, 4000));
    """)
    assert page.script(ASKED, f"runs/{RUN}/train") == 0
    page.script("window.isHidden = false; document.dispatchEvent(new Event('visibilitychange'));")
    page.until(lambda: page.script(ASKED, f"runs/{RUN}/train") > 0)


def test_the_nearest_training_emoji_of_a_picture_are_shown_with_their_licence(page, service):
    catalog = ModelCatalog(config_of(service.store))
    path = service.store.list("checkpoints", RUN, "unet")[-1]
    catalog.register("emoji-64", "checkpoint", f"checkpoints/{RUN}/unet/{path}")
    try:
        draw(page, count=1)
        wait_drawn(page, 1)
        page.click(".run .card button.picture")
        page.press("Find the nearest images")
        assert len(page.wait("dialog section li img", 6)) == 6
        assert "% alike" in page.text("dialog section") and "CC-BY-4.0" in page.text("dialog section")
    finally:
        catalog.remove("emoji-64")
