"""The studio against what the world brings: hostile texts and files, keys that end, a service that dies."""

import threading
import time

import pytest
from PIL import Image

from emoji_ldm.serve.api_keys import new_key, write_keys
from emoji_ldm.serve.backend import Overloaded
from tests.browser.studio_page import StudioPage
from tests.browser.studio_service import Studio, studio
from tests.browser.studio_steps import draw, new_set, wait_drawn

pytestmark = pytest.mark.slow
ATTACKS = (
    "<img src=x onerror=window.attacked=1>",
    '"><script>window.attacked=1</script>',
    "<svg onload=window.attacked=1>",
    "javascript:window.attacked=1",
)
NUM_ATTACKS = len(ATTACKS)


def attacked(page):
    return page.script("return window.attacked ?? null")


def test_texts_are_never_markup(page):
    """Prompts, titles of sets, names of pictures and of files, in every view."""
    draw(page, ATTACKS[0], count=1)
    wait_drawn(page, 1)
    new_set(page, ATTACKS, f"Set {ATTACKS[1]}")
    page.wait(".card", NUM_ATTACKS)
    page.click("[data-act=edit]")
    page.type("dialog input", ATTACKS[2])
    page.press("Save")
    page.press("Pick all")
    page.press(f"Make a pack ({NUM_ATTACKS})")
    page.wait(".pack-list li", NUM_ATTACKS)
    for view in ("sets", "gallery", "create"):
        page.go(view)
        page.wait(f"main .view.{view}")
    assert ATTACKS[0] in page.text("main")
    page.go("gallery")
    page.click(".card button.picture")
    page.wait("dialog")
    assert attacked(page) is None
    assert (
        page.browser.execute_script("return document.querySelectorAll('main script, [onerror], [onload]').length") == 0
    )


def test_the_policy_stops_markup_that_a_mistake_would_let_in(page):
    """The second line of defence: not even a script of ours can turn a text into markup or into code."""
    refused = page.script("""
        const node = document.createElement('script');
        const tries = [
            () => { document.body.innerHTML = '<img src=x onerror=window.attacked=1>'; },
            () => { node.textContent = 'window.attacked = 1'; document.body.append(node); },
            () => { document.body.setAttribute('onclick', 'window.attacked = 1'); },
            () => { node.src = 'data:text/javascript,window.attacked=1'; document.body.append(node); },
        ];
        return tries.map(each => { try { each(); return false; } catch { return true; } });
    """)
    assert refused == [True] * 4 and attacked(page) is None
    assert any("TrustedHTML" in message for message in page.console())


def test_a_file_that_is_no_picture_is_refused_by_its_content(page, service, tmp_path):
    pdf, cut, huge, empty = (tmp_path / name for name in ("report.png", "cut.png", "huge.png", "empty.png"))
    pdf.write_bytes(b"%PDF-1.7\n" + b"0" * 5000)
    Image.new("RGB", (64, 64)).save(cut)
    cut.write_bytes(cut.read_bytes()[:50])
    with huge.open("wb") as file:
        file.truncate(200 * 2**20)
    empty.write_bytes(b"")
    page.press("Start from a picture")
    for path, words in ((pdf, "is no picture"), (cut, "damaged"), (huge, "200 MB"), (empty, "is empty")):
        page.give_file("[name=image]", path)
        page.until(lambda words=words: any(words in each.text for each in page.all(".toast")), what=words)
    assert not page.all("[name=mask]"), "a refused file was taken"
    before = len(service.backend.tasks)
    draw(page, count=1)
    wait_drawn(page, 1)
    assert not service.backend.tasks[before].request.image
    page.go("gallery")
    page.give_file("input[type=file]", pdf)
    page.says("report.png is no picture")


def test_the_name_of_a_file_is_text(page, tmp_path):
    path = tmp_path / "<img src=x onerror=window.attacked=1>.png"
    path.write_bytes(b"%PDF-1.7")
    page.go("gallery")
    page.give_file("input[type=file]", path)
    page.says("onerror=window.attacked=1>.png is no picture")
    assert attacked(page) is None


@pytest.mark.long
def test_a_long_table_with_broken_quotes_loses_only_its_broken_lines(page, tmp_path):
    num_lines, broken = 100_000, set(range(10, 100_000, 1000))
    path = tmp_path / "prompts.csv"
    lines = [f'a cat {n},"cat {n}' + ("" if n in broken else '"') for n in range(num_lines)]
    path.write_text("prompt,name\n" + "\n".join(lines) + "\n")
    page.go("sets")
    page.press("New set")
    page.press("File")
    started = time.monotonic()
    page.give_file("[name=table]", path)
    page.says("50,000 pictures will be drawn")
    assert time.monotonic() - started < 10
    # What is beyond the lines that a set may have is left out as well.
    assert "50,000 lines are left out" in page.text(".summary")
    assert "Line 12: a quotation mark is not closed" in page.text(".summary")
    read = "(({ rows, problems }) => [rows.length, problems.filter(each => each.reason === 'quote')])"
    num_rows, quotes = page.call("tables", f"{read}(m.readTable(values[0]))", path.read_text())
    assert num_rows == 50_000 and [each["line"] for each in quotes] == [n + 2 for n in sorted(broken)]


def test_a_table_follows_the_rules_of_csv(page):
    text = 'prompt;name\r\n"a ""big"" cat; red";big\r\n\r\n"two\nlines";x\r\n;empty\r\nplain;\r\n'
    found = page.call("tables", "m.readTable(values[0])", text)
    assert [row["prompt"] for row in found["rows"]] == ['a "big" cat; red', "two\nlines", "plain"]
    assert found["problems"] == [{"line": 6, "reason": "no_prompt"}]
    found = page.call("tables", "m.readJsonLines(values[0])", '{"prompt": "a", "n": 2}\nnot json\n[1]\n{"prompt": ""}')
    assert found["rows"] == [{"prompt": "a", "n": 2}]
    assert [each["reason"] for each in found["problems"]] == ["not_json", "not_object", "no_prompt"]


@pytest.fixture
def locked(tmp_path):
    """A service with a key, the key, and a function that revokes it."""
    path = tmp_path / "keys.json"
    secret, key = new_key("ann", "interactive", 0, None)
    write_keys(str(path), (key,))
    with studio(tmp_path, keys=path) as running:
        yield running, secret, lambda: write_keys(str(path), ())


@pytest.mark.long
def test_a_key_is_asked_for_and_one_that_ends_costs_nothing(studio_browser, locked):
    service, secret, revoke = locked
    page = StudioPage(studio_browser, service.url)
    page.reset()
    page.wait("dialog")
    page.type("dialog input", "sk-emoji-wrong")
    page.press("Use this key")
    page.says("this key is unknown")
    page.type("dialog input", secret)
    page.press("Use this key")
    page.wait("[name=prompt]")
    draw(page, count=1)
    wait_drawn(page, 1)
    revoke()
    time.sleep(2.5)  # until the service has read its keys again
    page.type("[name=prompt]", "a precious prompt")
    page.press("Draw")
    page.wait("dialog")
    page.says("unknown")
    page.press("Close")
    assert page.script("return document.querySelector('[name=prompt]').value") == "a precious prompt"
    assert len(page.stored("pictures")) == 1


@pytest.mark.long
def test_a_service_that_dies_in_a_set_and_comes_back_loses_nothing(studio_browser, tmp_path):
    service = Studio(tmp_path)
    down = threading.Event()

    def refuse(task):
        if task.bulk and len(service.backend.tasks) > 9 and not down.is_set():
            raise Overloaded(0.2)

    service.backend.fail = refuse
    service.start()
    page = StudioPage(studio_browser, service.url)
    page.reset()
    new_set(page, [f"cat {number}" for number in range(24)], "Unlucky")
    page.wait(".card")
    shown = len(page.all(".card"))
    service.stop()
    page.says("The service cannot be reached")
    assert len(page.all(".card")) >= shown
    down.set()
    service.start()
    try:
        page.until(lambda: "cannot be reached" not in page.text("#banner"), 60)
        page.says("24 of 24", 60)
        assert len(page.wait(".card", 24)) == 24
    finally:
        service.stop()


@pytest.mark.long
def test_a_service_that_dies_while_drawing_keeps_what_came_and_draws_the_rest(studio_browser, tmp_path):
    service = Studio(tmp_path)
    service.start()
    page = StudioPage(studio_browser, service.url)
    page.reset()
    service.stop()
    page.type("[name=prompt]", "a cat")
    page.press("Draw")
    page.says("The service cannot be reached")
    service.start()
    try:
        page.press("Draw what is missing")
        wait_drawn(page, 4)
    finally:
        service.stop()


@pytest.mark.long
def test_a_busy_service_is_asked_again_when_it_says(page, service):
    refusals = [Overloaded(1.0)] * 2

    def refuse(_task):
        if refusals:
            raise refusals.pop()

    service.backend.fail = refuse
    try:
        draw(page, count=1)
        page.says("The service is busy")
        wait_drawn(page, 1)
    finally:
        service.backend.fail = None


def test_a_prompt_that_fails_says_why(page, service):
    def refuse(_task):
        raise RuntimeError("secret detail")

    service.backend.fail = refuse
    try:
        draw(page, count=1)
        page.says("internal error; see the service's log")
    finally:
        service.backend.fail = None
    assert "secret detail" not in page.text()
