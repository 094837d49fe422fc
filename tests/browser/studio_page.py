"""The studio as a person uses it: what is on the page, and clicks and keys, which are counted."""

import base64
import time
from contextlib import suppress

from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.browser.studio_service import resize

TIMEOUT_S = 30.0
CLEAR = """
    localStorage.clear(); sessionStorage.clear();
    const gone = indexedDB.deleteDatabase('emoji-studio');
    return new Promise(resolve => { gone.onsuccess = gone.onerror = () => resolve(); setTimeout(resolve, 3000); });
"""


class StudioPage:
    """One tab of the studio."""

    def __init__(self, browser, url):
        self.browser, self.url, self.interactions, self.width = browser, url, 0, 1440

    def reset(self, width=1440):
        """Forget everything that the browser holds of this service, and open the page anew."""
        self.width = width
        resize(self.browser, width)
        # An error page of the service's origin holds no view that would keep the database open.
        self.browser.get(f"{self.url}/health")
        self.script(CLEAR)
        self.browser.get_log("browser")
        self.interactions = 0
        self.open()

    def open(self, view="create"):
        """Go to a view by its address and wait until it is drawn."""
        self.browser.get("about:blank")
        self.browser.get(f"{self.url}/#{view}")
        self.wait("main .view :is(form, h1, .state:not(.loading))")

    def go(self, view):
        """Go to a view by the navigation."""
        self.click(f"nav a[href='#{view}']")
        self.wait(f"main .view.{view} :is(form, h1, .state:not(.loading))")

    def all(self, selector):
        """The elements that a person sees."""
        return [each for each in self.browser.find_elements(By.CSS_SELECTOR, selector) if each.is_displayed()]

    def wait(self, selector, count=1, timeout_s=TIMEOUT_S):
        """The elements of a selector, once there are as many as `count`."""
        return self.until(lambda: len(found := self.all(selector)) >= count and found, timeout_s, selector)

    def until(self, condition, timeout_s=TIMEOUT_S, what=""):
        """Poll until a condition is true; elements that are just replaced count as false."""
        deadline = time.monotonic() + timeout_s
        while True:
            with suppress(StaleElementReferenceException):
                if value := condition():
                    return value
            assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}\n{self.text()[:800]}"
            time.sleep(0.05)

    def click(self, selector, index=0):
        """Click; an interaction."""
        self.interactions += 1
        self.until(lambda: self._try_click(self.wait(selector, index + 1)[index]), what=f"a click on {selector}")

    def _try_click(self, element):
        try:
            self._into_view(element).click()
        except WebDriverException as error:
            # It was just replaced or covered; a person would click again.
            assert "intercepted" in error.msg or "stale" in error.msg, error
            return False
        return True

    def undo(self):
        """Take back what was done last; an interaction."""
        self.click(".toast:last-child button.link")

    def choose(self, selector, value):
        """Choose an option of a select, once it is there; an interaction."""
        self.interactions += 1
        there = "return [...document.querySelector(values[0])?.options ?? []].some(each => each.value === values[1])"
        self.until(lambda: self.script(there, selector, value), what=f"{value!r} in {selector}")
        self.script("const node = document.querySelector(values[0]); node.value = values[1];"
                    "node.dispatchEvent(new Event('change'))", selector, value)  # fmt: skip

    def press(self, text):
        """Click the button or link with a text."""
        self.interactions += 1

        def try_click():
            for each in self.all("button, a, summary, label"):
                if each.text.strip() == text and each.is_enabled():
                    return self._try_click(each)
            return False

        self.until(try_click, what=f"a button {text!r}")

    def type(self, selector, text, *, clear=True):
        """Type into a field; an interaction."""
        self.interactions += 1
        field = self.wait(selector)[0]
        if clear:
            field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text)

    def _into_view(self, element):
        """Scroll to an element, away from the bars at the edges, and return it."""
        self.browser.execute_script("arguments[0].scrollIntoView({ block: 'center' })", element)
        return element

    def give_file(self, selector, path):
        """Choose a file; an interaction. File fields may be hidden behind a button."""
        self.interactions += 1
        self.browser.find_element(By.CSS_SELECTOR, selector).send_keys(str(path))

    def keys(self, *keys):
        """Press keys where the focus is."""
        self.browser.switch_to.active_element.send_keys(*keys)

    def text(self, selector="body"):
        found = self.browser.find_elements(By.CSS_SELECTOR, selector)
        return found[0].text if found else ""

    def says(self, text, timeout_s=TIMEOUT_S):
        """Wait until a text is on the page."""
        return self.until(lambda: text in self.text(), timeout_s, repr(text))

    def script(self, body, *values):
        """Run a script; a promise is awaited."""
        code = f"const done = arguments[arguments.length - 1]; const values = [...arguments].slice(0, -1);\
                 (async () => {{ {body} }})().then(value => done({{value}}), error => done({{error: String(error)}}))"
        self.browser.set_script_timeout(60)
        answer = self.browser.execute_async_script(code, *values)
        assert "error" not in answer, answer
        return answer.get("value")

    def call(self, module, expression, *values):
        """Evaluate an expression over a module of the studio, called `m`, and `values`."""
        return self.script(f"const m = await import('/studio/js/{module}.js'); return {expression};", *values)

    def stored(self, store):
        """The records of a store in the browser's database, without their files."""
        return self.script("const m = await import('/studio/js/database.js');"
                           "return (await m.all(values[0])).map(({ blob, ...rest }) => rest);", store)  # fmt: skip

    def files(self):
        """The files of the gallery by picture id."""
        code = """
            const m = await import('/studio/js/database.js');
            const found = await m.all('pictures');
            return Promise.all(found.map(async ({ id, blob }) => [id, await new Promise(resolve => {
                const reader = new FileReader();
                reader.onload = () => resolve(reader.result.split(',')[1]);
                reader.readAsDataURL(blob);
            })]));"""
        return {name: base64.b64decode(data) for name, data in self.script(code)}

    def console(self):
        """Errors in the console since the last call; answers that are errors are no faults of the page."""
        entries = [each for each in self.browser.get_log("browser") if each["level"] == "SEVERE"]
        return [each["message"] for each in entries if "Failed to load resource" not in each["message"]]
