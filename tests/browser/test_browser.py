"""A real Chromium: nothing is left of it, however its process ends."""

import shutil
import subprocess
import sys

import pytest

from emoji_ldm.crawl.sources.browser import Browser
from emoji_ldm.errors import CrawlError
from tests.browser.processes import assert_nothing_left

pytestmark = pytest.mark.skipif(not shutil.which("chromedriver"), reason="needs chromium and chromedriver")


@pytest.mark.slow
def test_no_browser_outlives_its_process():
    start = "opened = Browser(user_agent='x', timeout_s=20); print(opened.folder, flush=True)"
    code = f"import os, sys\nfrom emoji_ldm.crawl.sources.browser import Browser\n{start}\n"
    ends = ("del opened", "sys.exit(3)", "os.kill(os.getpid(), 9)")
    started = [subprocess.Popen([sys.executable, "-c", code + end], stdout=subprocess.PIPE, text=True) for end in ends]
    for process in started:
        folder = process.communicate()[0].strip()
        assert folder
        assert_nothing_left(folder)


def test_without_chromium_the_error_names_the_packages_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(CrawlError, match="apt-get install chromium chromium-driver"):
        Browser(user_agent="x", timeout_s=5)
