"""Pages: new class names at every start, and tiles that a script loads."""

import re

import pytest

from emoji_ldm.demo.gallery import Gallery
from tests.unit.demo.site_client import get


@pytest.fixture(scope="module")
def site():
    with Gallery(num_openmoji=0, slow_s=2) as open_site:
        yield open_site


def class_names(site):
    html = get(f"{site.url}/emoji-list/tag/Blobs")[2].decode()
    return {name for names in re.findall(r'class="([^"]+)"', html) for name in names.split()}


def test_class_names_differ_between_two_starts(site):
    with Gallery(num_openmoji=0) as other:
        assert class_names(site) & class_names(other) == {"container", "text-center"}


def test_tiles_are_not_in_the_html_and_come_from_a_script(site):
    html = get(f"{site.url}/emoji-list/tag/Blobs?page=1")[2].decode()
    assert "/_next/image" not in html
    script = get(site.url + re.search(r'src="(/_next/static/chunks/[^"]+)"', html)[1])[2].decode()
    assert "setTimeout" in script and "/api/emoji/" in script
    sheet = get(site.url + re.search(r'href="(/_next/static/css/[^"]+)"', html)[1])[2].decode()
    assert all(name in sheet for name in class_names(site))
