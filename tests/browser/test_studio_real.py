"""The studio in front of the real service, as `emoji-ldm serve` starts it: Ray, replicas, bulk jobs and tiny models.

The other tests of the studio have a backend that draws a face at once; here every flow goes all the way, on a wide page
and on a phone. The first test is a person's path on a fresh machine; it prints the interactions and the minutes.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains

from emoji_ldm.dataset import checkpoints
from emoji_ldm.dataset.table import Table
from emoji_ldm.generate.checkpoint_resolver import model_key
from emoji_ldm.generate.png_metadata import read_request
from emoji_ldm.packs.pack_rules import verify
from emoji_ldm.packs.target_limits import TARGETS
from emoji_ldm.schemas import IMAGES, LATENTS
from emoji_ldm.store import Store
from tests.browser.studio_page import StudioPage
from tests.browser.studio_service import resize
from tests.browser.studio_steps import draw
from tests.browser.test_studio_data import human_captions
from tests.browser.test_studio_path import MAX_INTERACTIONS, MAX_MINUTES, NUM_EMOJI, make_discord_pack, wait_for_zip
from tests.deployed_service import URL, tiny_config, wait_for
from tests.docs.test_training import write_adapter
from tests.stored_dataset import NUM_IMAGES, RUN, STEPS, fill_dataset, fill_training
from tests.tiny_pipelines import write_pipeline

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]
MOST_STEPS = 120
DRAWN_S = 120.0  # of anything that replicas draw, on a busy machine
CSV = 'prompt,name\n"a cat, happy",happy_cat\na fox,fox\n"a robot,broken\n'


@contextmanager
def serve_command(folder, *words):
    """The address of `emoji-ldm serve` with these words, started in an empty folder and an empty home."""
    log, home = folder / "log", folder / "home"
    home.mkdir()
    with (
        log.open("w") as file,
        subprocess.Popen([sys.executable, "-m", "ray_jobs", "serve", *words], cwd=folder, stdout=file, stderr=file,
                         env={**os.environ, "HOME": str(home)}) as process,
    ):  # fmt: skip
        try:
            yield wait_for(URL, log, process)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(120)


def test_from_the_command_on_a_fresh_machine_to_a_discord_pack(studio_browser, downloads, tmp_path):
    began = time.monotonic()
    with serve_command(tmp_path, "serve.port=0") as url:
        served = time.monotonic() - began
        page = StudioPage(studio_browser, url)
        page.reset()
        make_discord_pack(page)
        name, pack = wait_for_zip(downloads)
        minutes = (time.monotonic() - began) / 60
    print(f"{page.interactions} interactions, {minutes:.2f} minutes from the command to {name}; "
          f"the page answered after {served:.0f} s")  # fmt: skip
    assert page.interactions <= MAX_INTERACTIONS and minutes <= MAX_MINUTES
    names = [each.removesuffix(".png").removeprefix("emoji/") for each in pack.namelist() if each.endswith(".png")]
    assert len(names) == NUM_EMOJI
    verify(pack.fp.getvalue(), TARGETS["discord"], names)


@pytest.fixture(scope="module")
def real(tmp_path_factory, tiny_pipeline):
    """A service with two models and an adapter, over a data set and a training whose checkpoint can draw."""
    folder = tmp_path_factory.mktemp("real")
    store = Store(str(folder / "store"))
    ids = fill_dataset(store)
    fill_training(store)
    path = f"checkpoints/{RUN}/unet/{checkpoints.folder_name(STEPS[-1] + 1)}"
    write_pipeline(store.path(path, "pipeline"), seed=7)
    facts = {"config": {"run": RUN, "train": {"steps": 1000}}, "config_version": 3}
    facts |= {"step": STEPS[-1] + 1, "versions": {"latents": Table(store, LATENTS).version}}
    checkpoints.publish_checkpoint(store, path, facts)
    write_adapter(tiny_pipeline, folder / "blobs")
    config = tiny_config(folder, tiny_pipeline, models={"second": str(write_pipeline(folder / "second", seed=3))},
                         loras={"blobs": str(folder / "blobs")}, max_steps=MOST_STEPS)  # fmt: skip
    (folder / "config.yaml").write_text(config.to_yaml())
    with serve_command(folder, "--config", str(folder / "config.yaml")) as url:
        yield url, store, ids, model_key(store.path(path, "pipeline"))


@pytest.fixture(params=[1440, 390])
def page(request, studio_browser, real):
    """The studio of the real service; nothing may be wider than the page, and no error in the console at the end."""
    opened = StudioPage(studio_browser, real[0])
    opened.reset(request.param)
    yield opened
    assert opened.script("return document.documentElement.scrollWidth") <= request.param
    assert opened.console() == []
    resize(studio_browser, 1440)


def test_previews_cancelling_adapters_and_start_images(page, tmp_path):
    page.press("More settings")
    page.choose("[name=lora]", "blobs")
    page.type("[name=steps]", str(MOST_STEPS))
    draw(page, "a cat", count=2)
    page.wait(".pending img", timeout_s=DRAWN_S)
    page.press("Cancel")
    page.says("Cancelled after")
    num_before = len(page.stored("pictures"))
    page.type("[name=steps]", "4")
    draw(page, "a dog", count=2)
    page.until(lambda: len(page.stored("pictures")) == num_before + 2, DRAWN_S)
    path = tmp_path / "start.png"
    Image.new("RGBA", (32, 32), (9, 90, 200, 255)).save(path)
    page.press("Start from a picture")
    page.give_file("[name=image]", path)
    page.press("Draw the mask")
    canvas = page.wait("canvas.mask")[0]
    ActionChains(page.browser).move_to_element(canvas).click_and_hold().move_by_offset(20, 0).release().perform()
    page.press("Use this mask")
    page.until(lambda: not page.all("dialog"))
    draw(page, "a hat", count=1)
    page.until(lambda: len(page.stored("pictures")) == num_before + 3, DRAWN_S)
    params = [each["params"] for each in page.stored("pictures") if each["prompt"] != "a cat"]
    assert {(each["lora"], each["model"], each["steps"]) for each in params} == {("blobs", "tiny", 4)}


def test_a_set_from_a_file_is_drawn_sorted_out_kept_and_packed(page, downloads, tmp_path):
    (tmp_path / "prompts.csv").write_text(CSV)
    page.go("sets")
    page.press("New set")
    page.press("File")
    page.give_file("[name=table]", tmp_path / "prompts.csv")
    page.says("Line 4: a quotation mark is not closed")
    page.type("[name=n]", "2")
    page.press("More settings")
    page.type("[name=steps]", "3")
    page.press("Draw the set")
    page.wait(".card", 4, timeout_s=DRAWN_S)
    page.says("Done")
    page.press("Pick all")
    page.click("[data-act=reroll]")
    page.says("was drawn again", DRAWN_S)
    page.click("[data-act=edit]")
    page.type("dialog input", "best_cat")
    page.type("dialog label + label input", "cats, ours")
    page.press("Save")
    page.until(lambda: "ours" in page.text(".card .tags"))
    page.click("[data-act=remove]", 3)
    page.until(lambda: len(page.all(".card")) == 3)
    page.undo()
    page.wait(".card", 4)
    page.press("Make a pack (4)")
    page.wait(".pack-list li", 4)
    page.choose("[name=target]", "whatsapp")
    page.press("Download the pack")
    _, pack = wait_for_zip(downloads)
    verify(pack.fp.getvalue(), TARGETS["whatsapp"], ["best_cat", "happy_cat_2", "fox", "fox_2"])
    page.go("gallery")
    assert len(page.wait(".card", 4)) == 4
    page.choose("[aria-label='Any tag']", "ours")
    page.until(lambda: len(page.all(".card")) == 1)
    page.click(".card button.picture")
    page.press("Use these settings")
    page.until(lambda: page.script("return document.querySelector('[name=prompt]')?.value") == "a cat, happy")


def test_two_checkpoints_are_compared_and_two_numbers(page):
    page.go("compare")
    page.type("[name=values_prompt]", "a cat\na robot")
    page.press("More settings")
    page.type("[name=steps]", "3")
    page.press("Draw the table")
    page.wait("table.compare button.picture", 4, timeout_s=DRAWN_S)
    assert [each.text for each in page.all("table.compare thead th")] == ["tiny", "second"]
    page.choose("[name=rowAxis]", "steps")
    page.type("[name=values_steps]", "2\n4")
    page.choose("[name=columnAxis]", "guidance_scale")
    page.type("[name=values_guidance_scale]", "1\n5")
    page.type("[name=prompt]", "a fox")
    page.press("Draw the table")
    page.until(lambda: [each.text for each in page.all("table.compare th")] == ["1", "5", "2", "4"])
    page.wait("table.compare button.picture", 4, timeout_s=DRAWN_S)
    found = {(each["params"]["steps"], each["params"]["guidance_scale"]) for each in page.stored("pictures")
             if each["prompt"] == "a fox"}  # fmt: skip
    assert found == {(2, 1), (2, 5), (4, 1), (4, 5)}


def test_captions_are_corrected_and_versions_compared(page, real):
    _, store, ids, _ = real
    page.go("data")
    page.click(f".card[data-id='{ids[1]}'] button.picture")
    page.wait("dialog .looks img")
    page.type("dialog textarea[name=caption]", f"a blob, seen at {page.width} px")
    page.press("Save")
    page.says("is saved")
    assert human_captions(store) == {ids[1]: f"a blob, seen at {page.width} px"}
    page.press("Take the correction back")
    page.until(lambda: human_captions(store) == {})
    page.press("Close")
    page.open("data/main/changes")
    page.wait(".change img[src^='blob:']", 2)
    assert Table(store, IMAGES).count() == NUM_IMAGES


def test_a_promoted_checkpoint_draws_and_its_training_emoji_are_near(page, real):
    _, _, _, key = real
    name = f"{RUN}-{STEPS[-1] + 1}"
    page.open(f"training/{RUN}/train")
    page.click(f"button[aria-label='Serve step {STEPS[-1] + 1}']")
    page.says(f"served as {name}")
    page.go("create")
    page.press("More settings")
    page.choose("[name=model]", name)
    page.type("[name=steps]", "3")
    draw(page, "a promoted cat", count=1)
    page.wait(".run .card:not(.pending) button.picture", timeout_s=DRAWN_S)
    [picture], [data] = page.stored("pictures"), page.files().values()
    assert (picture["params"]["model"], picture["params"]["model_key"]) == (name, key)
    assert read_request(data).prompt == "a promoted cat" and key.encode() in data
    page.click(".run .card button.picture")
    page.press("Find the nearest images")
    assert len(page.wait("dialog section li img", 6)) == 6 and "CC-BY-4.0" in page.text("dialog section")
    page.press("Close")
    page.open(f"training/{RUN}/train")
    page.click(f"button[title='Take {name} out of use']")
    page.says("is out of use")
    page.go("create")
    page.press("More settings")
    assert name not in page.text("[name=model]")
