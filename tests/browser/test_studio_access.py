"""The studio for everybody: axe-core in every view, both themes and widths; the keyboard alone; phones."""

from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.studio_page import StudioPage
from tests.browser.studio_service import resize
from tests.browser.studio_steps import draw, moved_too_far, new_set, wait_drawn

pytestmark = pytest.mark.slow
# axe-core of Deque Systems, MPL 2.0 (axe/LICENSE), from the package `axe-core` of npm.
AXE = Path(__file__).with_name("axe") / "axe.min.js"
VIEWS = ("create", "sets", "sets/new", "gallery", "compare", "pack", "data", "data/main/outcomes", "data/main/changes",
         "training", "training/demo-1/train")  # fmt: skip
CHECK = """
    const done = arguments[arguments.length - 1];
    const shown = node => `${node.html.slice(0, 160)} ${node.any[0]?.message ?? ''}`;
    axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) =>
        done(violations.map(each => [each.impact, each.id, each.nodes.slice(0, 3).map(shown)])));
"""


@pytest.fixture(scope="module")
def filled(studio_browser, service, stored):
    """The studio with pictures, a set, a table and a pack, over a store with a data set and a training."""
    page = StudioPage(studio_browser, service.url)
    page.reset()
    page.press("Colour")
    draw(page, "a happy cat")
    wait_drawn(page, 4)
    new_set(page, ["a cat", "a dog"], "Two")
    page.wait(".card", 2)
    page.press("Pick all")
    page.set_view = page.script("return location.hash.slice(1)")
    page.press("Make a pack (2)")
    page.wait(".pack-list li", 2)
    page.go("compare")
    page.type("[name=values_prompt]", "a cat")
    page.press("Draw the table")
    page.wait("table.compare button.picture", 2)
    return page


def findings(page, where):
    page.browser.execute_script(AXE.read_text())
    return [(where, *each) for each in page.browser.execute_async_script(CHECK)]


LOOKS = [
    (390, "dark"),
    *(pytest.param(*each, marks=pytest.mark.long) for each in [(1440, "light"), (1440, "dark"), (390, "light")]),
]


@pytest.mark.parametrize(("width", "theme"), LOOKS)
def test_axe_finds_nothing_in_any_view_and_nothing_is_wider_than_the_page(filled, width, theme):
    page, found, shifts = filled, [], {}
    page.script("localStorage.setItem('studio.theme', values[0])", theme)
    resize(page.browser, width)
    for view in (*VIEWS, page.set_view):
        page.open(view)
        shifts[view] = moved_too_far(page)
        page.browser.execute_script("document.querySelectorAll('details').forEach(each => { each.open = true; })")
        found += findings(page, view)
        assert page.script("return document.documentElement.scrollWidth") <= width, view
    page.open("gallery")
    page.click(".card button.picture")
    page.wait("dialog")
    found += findings(page, "picture")
    assert page.script("return document.querySelector('dialog').scrollWidth") <= width
    page.open("data")
    page.click(".card button.picture")
    page.wait("dialog .looks img")
    found += findings(page, "image of the data set")
    assert page.script("return document.querySelector('dialog').scrollWidth") <= width
    resize(page.browser, 1440)
    assert found == []
    assert {view: moved for view, moved in shifts.items() if moved} == {}


@pytest.mark.long
def test_every_focus_is_seen(filled):
    page = filled
    page.open("create")
    page.browser.execute_script("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    unseen = page.script("""
        const seen = each => {
            each.focus({ focusVisible: true });
            const { outlineStyle, outlineWidth } = getComputedStyle(each);
            return outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2;
        };
        return [...document.querySelectorAll('a, button, input, select, textarea, summary')]
            .filter(each => each.checkVisibility() && !each.disabled && !seen(each))
            .map(each => each.outerHTML.slice(0, 100));
    """)
    assert unseen == []


def test_a_picture_is_made_and_kept_with_the_keyboard_alone(page):
    page.browser.execute_script("document.body.focus()")
    page.keys(Keys.TAB)
    assert page.script("return document.activeElement.className") == "skip"
    page.keys(Keys.ENTER)
    page.keys(Keys.TAB)
    assert page.script("return document.activeElement.name") == "prompt"
    page.keys("a keyboard cat")
    page.keys(Keys.CONTROL, Keys.ENTER)
    wait_drawn(page, 4)
    for _ in range(60):
        if page.script("return document.activeElement.matches('.run .card button.picture')"):
            break
        page.keys(Keys.TAB)
    page.keys(Keys.ENTER)
    page.wait("dialog")
    assert page.script("return document.querySelector('dialog').contains(document.activeElement)")
    page.keys(Keys.ESCAPE)
    page.until(lambda: not page.all("dialog"))
    assert page.script("return document.activeElement.matches('.run .card button.picture')"), "the focus was lost"
