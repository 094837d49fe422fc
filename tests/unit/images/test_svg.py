"""SVG: drawn at full size, without access to files, within limits."""

import io

import numpy as np
import pytest
from PIL import Image

from emoji_ldm.images.normalize import normalize_image
from emoji_ldm.outcomes import Outcome, Rejected
from tests.unit.crawl.stub_site import emoji


def normalized(data, size_px=128, max_px=4096):
    return normalize_image(data, size_px=size_px, max_px=max_px)


def pixels(picture):
    return np.array(Image.open(io.BytesIO(picture.png)))


def rejection_of(data, **options):
    with pytest.raises(Rejected) as caught:
        normalized(data, **options)
    return caught.value


SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {}>{}</svg>'

CIRCLE = '<circle cx="20" cy="10" r="8" fill="red"/>'


def svg(body=CIRCLE, head='viewBox="0 0 40 20"'):
    return SVG.format(head, body).encode()


BILLION_LAUGHS = b'<!DOCTYPE svg [<!ENTITY a "lol"><!ENTITY b "&a;&a;">]>' + svg("<text>&b;</text>")

NESTED_USE = "".join(f'<g id="g{n}">' + f'<use href="#g{n - 1}"/>' * 10 + "</g>" for n in range(1, 12))


def test_svg_is_drawn_at_full_size_and_keeps_its_shape():
    picture = normalized(svg())
    assert (picture.width, picture.height, picture.source_format) == (128, 64, "SVG")
    assert pixels(picture)[32, 64].tolist() == [255, 0, 0, 255]


def test_svg_cannot_read_files(tmp_path):
    (tmp_path / "secret.png").write_bytes(emoji())
    for link in (tmp_path / "secret.png", f"file://{tmp_path}/secret.png", "https://example.org/x.png"):
        for name in ("href", "xlink:href"):
            assert "outside" in rejection_of(svg(f'<image {name}="{link}" width="40" height="20"/>' + CIRCLE)).reason


@pytest.mark.parametrize(
    "data",
    [BILLION_LAUGHS, svg("<g>" * 100 + "</g>" * 100), svg("<g/>" * 20_000), svg("<use href='#a'/>" * 300), svg("<g>")],
)
def test_svg_that_is_unbounded_or_broken_is_rejected(data):
    assert rejection_of(data).outcome is Outcome.NOT_AN_IMAGE


@pytest.mark.slow
def test_svg_that_grows_exponentially_is_stopped():
    assert rejection_of(svg(f'<g id="g0">{CIRCLE}</g>{NESTED_USE}<use href="#g11"/>')).outcome is Outcome.NOT_AN_IMAGE


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8-sig"])
def test_svg_in_another_encoding_is_drawn_or_rejected_with_a_reason(encoding):
    svg = '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><path d="M0 0H5V9Z"/></svg>'
    try:
        assert normalized(svg.encode(encoding)).source_format == "SVG"
    except Rejected as error:
        assert error.outcome is Outcome.NOT_AN_IMAGE
        assert error.reason
        assert encoding != "utf-8-sig"
