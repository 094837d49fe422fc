"""A moderator's afternoon: from the open page to a downloaded pack of twelve emoji, counted and timed."""

import io
import time
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tests.browser.studio_page import StudioPage
from tests.browser.studio_service import resize

pytestmark = pytest.mark.slow
MAX_INTERACTIONS, MAX_MINUTES = 12, 10
NUM_EMOJI = 12
MAX_DISCORD_BYTES = 256 * 1024


def make_discord_pack(page):
    """Draw twelve emoji and download them as a Discord pack; the way that the guide describes."""
    page.go("sets")
    page.press("New set")
    page.press("Matrix")
    page.type("[name=subjects]", "cat\nfox\nrobot")
    page.type("[name=expressions]", "happy\nsad\nangry\nsurprised")
    page.press("Draw the set")
    page.wait(".card", NUM_EMOJI, timeout_s=60 * MAX_MINUTES)
    page.press("Pick all")
    page.press(f"Make a pack ({NUM_EMOJI})")
    page.wait(".pack-list li", NUM_EMOJI)
    page.press("Download the pack")


def wait_for_zip(folder, timeout_s=120):
    """The content of the only ZIP file that was downloaded, which is removed."""
    deadline = time.monotonic() + timeout_s
    while not (found := list(folder.glob("*.zip"))):
        assert time.monotonic() < deadline, list(folder.iterdir())
        time.sleep(0.1)
    data = found[0].read_bytes()
    found[0].unlink()
    return found[0].name, zipfile.ZipFile(io.BytesIO(data))


@pytest.mark.parametrize("width", [1440, pytest.param(390, marks=pytest.mark.long)])
def test_a_discord_pack_of_twelve_takes_few_interactions(studio_browser, service, downloads, width):
    page = StudioPage(studio_browser, service.url)
    page.reset(width)
    started, page.interactions = time.monotonic(), 0
    make_discord_pack(page)
    name, pack = wait_for_zip(downloads)
    minutes = (time.monotonic() - started) / 60
    print(f"{width} px: {page.interactions} interactions, {minutes:.2f} minutes from the open page to {name}")
    resize(page.browser, 1440)
    assert page.interactions <= MAX_INTERACTIONS and minutes <= MAX_MINUTES
    pictures = [each for each in pack.namelist() if each.endswith(".png") and "/" not in each.removeprefix("emoji/")]
    emoji = [each for each in pictures if Image.open(pack.open(each)).size == (128, 128)]
    assert {Path(each).stem for each in emoji} >= {
        f"{subject}_{expression}"
        for subject in ("cat", "fox", "robot")
        for expression in ("happy", "sad", "angry", "surprised")
    }
    assert all(pack.getinfo(each).file_size < MAX_DISCORD_BYTES for each in emoji)
