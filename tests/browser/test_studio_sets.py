"""The gallery, sets and comparisons of the studio in a real browser."""

import pytest
from selenium.webdriver.common.keys import Keys

from emoji_ldm.generate.png_metadata import read_request
from tests.browser.studio_service import resize
from tests.browser.studio_steps import draw, new_set, wait_drawn
from tests.browser.test_studio_path import wait_for_zip

pytestmark = pytest.mark.slow


def test_the_gallery_finds_selects_deletes_and_undoes_by_keyboard(page):
    draw(page, "a happy cat")
    wait_drawn(page, 4)
    draw(page, "a sad robot")
    wait_drawn(page, 8)
    page.go("gallery")
    page.wait(".card", 8)
    page.keys("/")
    page.keys("robot")
    page.until(lambda: len(page.all(".card")) == 4)
    page.browser.execute_script("document.querySelector('.card button.picture').focus()")
    page.keys(Keys.ARROW_RIGHT)
    page.keys(" ")
    page.says("1 selected")
    page.keys(Keys.CONTROL, "a")
    page.says("4 selected")
    page.keys(Keys.DELETE)
    page.until(lambda: not page.all(".card"))
    page.undo()
    page.wait(".card", 4)
    page.open("gallery")
    assert len(page.wait(".card", 8)) == 8


@pytest.mark.long
def test_settings_come_back_from_a_file_in_the_gallery(page, tmp_path):
    page.press("More settings")
    page.type("[name=steps]", "17")
    page.type("[name=guidance_scale]", "4.5")
    page.type("[name=negative_prompt]", "text")
    draw(page, "ein fröhlicher Bär 🐻", count=1)
    wait_drawn(page, 1)
    [data] = page.files().values()
    (tmp_path / "bear.png").write_bytes(data)
    page.reset()
    page.go("gallery")
    page.give_file("input[type=file]", tmp_path / "bear.png")
    page.click(".card button.picture")
    page.press("Use these settings")
    page.until(lambda: page.script("return document.querySelector('[name=prompt]')?.value") == "ein fröhlicher Bär 🐻")
    names = ("steps", "guidance_scale", "negative_prompt", "seed")
    found = page.script("return values[0].map(name => document.querySelector(`[name=${name}]`).value)", names)
    assert found[:3] == ["17", "4.5", "text"] and int(found[3]) == read_request(data).seed


def test_a_file_that_is_dropped_on_the_form_brings_its_settings(page):
    draw(page, "a green frog", count=1)
    wait_drawn(page, 1)
    page.type("[name=prompt]", "something else")
    page.script("""
        const m = await import('/studio/js/database.js');
        const [{ blob }] = await m.all('pictures');
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([blob], 'frog.png', { type: 'image/png' }));
        const event = new DragEvent('drop', { bubbles: true, cancelable: true, dataTransfer });
        document.querySelector('form').dispatchEvent(event);
    """)
    page.says("The settings of the picture are in the form")
    page.until(lambda: page.script("return document.querySelector('[name=prompt]')?.value") == "a green frog")


@pytest.mark.long
def test_a_set_is_drawn_picked_rerolled_renamed_and_packed(page, downloads):
    new_set(page, [f"a {mood} cat" for mood in ("happy", "sad", "angry")])
    page.wait(".card", 3)
    page.says("Done")
    before = page.browser.find_elements("css selector", ".card img")[0].get_attribute("src")
    page.click("[data-act=reroll]")
    page.says("was drawn again")
    page.until(lambda: page.browser.find_elements("css selector", ".card img")[0].get_attribute("src") != before)
    page.click("[data-act=edit]")
    page.type("dialog input", "very_happy")
    page.press("Save")
    page.says("very_happy")
    page.click("[data-act=remove]", 2)
    page.until(lambda: len(page.all(".card")) == 2)
    page.undo()
    page.wait(".card", 3)
    page.press("Pick all")
    page.press("Make a pack (3)")
    page.wait(".pack-list li", 3)
    names = page.script("return [...document.querySelectorAll('.pack-list input')].map(each => each.value)")
    assert names == ["very_happy", "sad_cat", "angry_cat"]
    page.press("Download the pack")
    page.says("The pack for Discord", 60)
    assert page.script("return location.hash") == "#pack"
    assert set(wait_for_zip(downloads)[1].namelist()) >= {f"emoji/{each}.png" for each in names}


@pytest.mark.long
def test_a_set_goes_on_while_the_page_is_closed(page, service):
    service.backend.pause_s = 0.1
    try:
        new_set(page, [f"cat number {number}" for number in range(40)], "Forty cats")
        page.until(lambda: "#sets/set_" in page.browser.current_url)
        page.browser.get("about:blank")
        page.open("sets")
        page.says("Forty cats")
        page.says("40 of 40", 60)
    finally:
        service.backend.pause_s = 0.01
    page.click(".set a")
    assert len(page.wait(".card", 40)) == 40


def test_a_matrix_is_every_subject_in_every_expression_and_colour(page):
    write = "(subject, { expression, skin_color }) => `${skin_color} ${subject} ${expression}`"
    rows = page.call("tables", f"m.matrix(...values, {write})", "cat\nfox", "happy\n\nsad", "yellow")
    assert [row["prompt"] for row in rows] == [
        "yellow cat happy",
        "yellow cat sad",
        "yellow fox happy",
        "yellow fox sad",
    ]
    page.go("sets")
    page.press("New set")
    page.press("Matrix")
    page.type("[name=subjects]", "cat\nfox")
    page.type("[name=colours]", "red\nblue\ngreen")
    page.says("6 pictures will be drawn")


@pytest.mark.long
def test_a_deleted_set_comes_back_on_undo(page, service):
    name = f"To be deleted at {page.width} px"
    new_set(page, ["a lonely cat"], name)
    page.wait(".card")
    page.press("Delete")
    page.wait(".head a[href='#sets/new']")
    page.until(lambda: name not in page.text("main"))
    page.undo()
    page.until(lambda: name in page.text("main"))


def test_a_table_over_prompts_and_models(page, service):
    page.go("compare")
    page.type("[name=values_prompt]", "a cat\na robot")
    page.press("Draw the table")
    page.wait("table.compare button.picture", 4)
    heads = [each.text for each in page.all("table.compare th")]
    assert heads == ["emoji-64", "emoji-64-fast", "a cat", "a robot"]
    shown = {(each["prompt"], each["params"]["model"], each["params"]["seed"]) for each in page.stored("pictures")}
    assert shown == {(prompt, model, 1) for prompt in ("a cat", "a robot") for model in ("emoji-64", "emoji-64-fast")}


@pytest.mark.long
def test_two_tabs_show_the_same_gallery_and_set(page):
    new_set(page, ["a cat", "a dog"], "Shared")
    page.wait(".card", 2)
    address, first = page.browser.current_url, page.browser.current_window_handle
    page.browser.switch_to.new_window("tab")
    try:
        resize(page.browser, page.width)
        page.browser.get(address)
        page.wait(".card", 2)
        page.click(".acts [data-act=pick]")
        page.says("Make a pack (1)")
        page.browser.switch_to.window(first)
        page.says("Make a pack (1)")
        page.click(".acts [data-act=pick]", 1)
        page.says("Make a pack (2)")
    finally:
        page.browser.switch_to.window(page.browser.window_handles[-1])
        page.browser.close()
        page.browser.switch_to.window(first)
