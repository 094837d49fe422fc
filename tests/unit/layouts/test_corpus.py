"""The corpus itself: its sites are what they claim to be, so that a bad figure is the reader's fault."""

import html
import io
import re
import urllib.request
from collections import Counter
from urllib.parse import quote, urljoin, urlsplit

import pytest
from PIL import Image

from tests.layouts import LAYOUTS, VARIANTS, corpus_site

STATIC = ("server-rendered", "next-images", "vue", "svelte", "cursor-links", "css-background", "canvas", "data-urls",
          "table", "masonry", "file-names")  # fmt: skip
LINK = re.compile(r'<(?:a|link)\b[^>]*?href="([^"]+)"')
CLASS = re.compile(r'class="([^"]+)"')
each_site = pytest.mark.parametrize(("layout", "variant"), [(name, v) for name in LAYOUTS for v in VARIANTS])


def get(url):
    with urllib.request.urlopen(url) as answer:
        return answer.read()


def linked_pages(site):
    """The text of all pages that links lead to, from the entry on, and that have its path."""
    seen, left = {}, [site.entry]
    while left:
        url = left.pop()
        if url in seen:
            continue
        seen[url] = html.unescape(get(url).decode())
        path = urlsplit(site.entry).path
        targets = (urljoin(url, html.unescape(link)) for link in LINK.findall(get(url).decode()))
        left += [target for target in targets if urlsplit(target).path.startswith(path) and site.origin in target]
    return seen


@each_site
def test_a_site_has_60_to_300_emoji_with_distinct_addresses(layout, variant):
    with corpus_site(layout, variant) as site:
        assert 60 <= len(site.truth) <= 300
        assert len({tile.url for tile in site.truth}) == len(site.truth)
        assert all(tile.title.strip() for tile in site.truth)


@each_site
def test_the_addresses_of_the_truth_lead_to_pictures_that_are_larger_than_the_others(layout, variant):
    with corpus_site(layout, variant) as site:
        for tile in [tile for tile in site.truth if tile.url.startswith("http")][:3]:
            body = get(tile.url)
            if tile.picture:  # of a sprite
                assert tile.url.partition("#")[2].encode() in body
                continue
            sizes = [Image.open(io.BytesIO(get(url))).width for url in tile.smaller if url.startswith("http")]
            assert Image.open(io.BytesIO(body)).width > max(sizes)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layout", STATIC)
def test_links_lead_from_the_entry_to_all_emoji(layout, variant):
    with corpus_site(layout, variant) as site:
        texts = "\n".join(linked_pages(site).values())
        if layout == "css-background":
            texts += get(f"{site.server.cdn}/css/sprites.css").decode()
        for tile in site.truth:
            path = urlsplit(tile.url).path if tile.url.startswith("http") else tile.url
            assert path in texts or quote(path, safe="") in texts


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_link_but_the_sitemap_leads_to_the_pages_of_that_layout(variant):
    with corpus_site("sitemap", variant) as site:
        assert [tile.page for tile in site.truth if urlsplit(tile.url).path in get(site.entry).decode()][-1] == 1
        robots = get(f"{site.origin}/robots.txt").decode()
        index = get(re.search(r"Sitemap: (\S+)", robots)[1]).decode()
        listed = re.findall(r"<loc>(.*?)</loc>", get(re.search(r"<loc>(.*?)</loc>", index)[1]).decode())
        texts = "".join(get(url).decode() for url in listed)
        assert all(urlsplit(tile.url).path in texts for tile in site.truth)


def test_the_same_seed_gives_the_same_site_and_variants_and_seeds_differ():
    def shown(variant, seed):
        with corpus_site("server-rendered", variant, seed=seed) as site:
            ports = re.compile(r"127\.0\.0\.1:\d+")
            return ports.sub("", get(site.entry).decode())

    first = shown(0, 0)
    assert first == shown(0, 0)
    assert len({first, shown(1, 0), shown(0, 1)}) == 3


@pytest.mark.parametrize("layout", ["react", "next-images", "sprites", "load-more", "shadow-dom", "css-background"])
def test_class_names_of_a_layout_are_others_in_each_variant(layout):
    names = []
    for variant in VARIANTS:
        with corpus_site(layout, variant, seed=3) as site:
            texts = get(site.entry).decode()
            names.append({name for value in CLASS.findall(texts) for name in value.split() if re.search(r"\d", name)})
    assert not names[0] & names[1]


@each_site
def test_noise_is_real_images_that_are_not_in_the_truth(layout, variant):
    with corpus_site(layout, variant) as site:
        text = html.unescape(get(site.entry).decode())
        shown = {urljoin(site.entry, url) for url in re.findall(r'<img[^>]*? src="([^"]+)"', text)}
        noise = [url for url in shown if re.search(r"/(photo|advert|logo|icon)s/", url)]
        assert len(noise) >= 8
        assert not {tile.url for tile in site.truth} & set(noise)
        sizes = Counter(Image.open(io.BytesIO(get(url))).size for url in noise)
        assert len(sizes) >= 4
