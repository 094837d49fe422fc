"""Fixtures of the studio's tests: one browser for all of them, a service for each module."""

import pytest

from tests.browser.studio_page import StudioPage
from tests.browser.studio_service import new_browser, resize, studio
from tests.stored_dataset import fill_dataset, fill_training


@pytest.fixture(scope="session")
def downloads(tmp_path_factory):
    """The folder that the browser saves files to."""
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="session")
def studio_browser(downloads):
    """A Chromium that saves downloads to `downloads`."""
    driver = new_browser(downloads)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """A studio without keys."""
    with studio(tmp_path_factory.mktemp("studio")) as running:
        yield running


@pytest.fixture(scope="module")
def stored(service):
    """A data set and a training in the store of the service; the ids of the images."""
    ids = fill_dataset(service.store, titles=("<img src=x onerror=window.attacked=1>",))
    fill_training(service.store)
    return ids


@pytest.fixture(params=[1440, pytest.param(390, marks=pytest.mark.long)])
def page(request, studio_browser, service):
    """The studio on a wide page, and on a phone, with nothing stored; no error may be in the console at the end."""
    opened = StudioPage(studio_browser, service.url)
    opened.reset(request.param)
    yield opened
    resize(studio_browser, 1440)
    assert opened.console() == []
