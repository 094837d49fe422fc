"""The colour fonts of a pack as Chromium draws them: the bitmaps, and the outlines at a size that no bitmap has."""

import functools
import http.server
import io
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from emoji_ldm.packs.pack_builder import PackOptions, build_pack
from emoji_ldm.packs.source_pictures import SourcePicture
from tests.browser.studio_page import StudioPage
from tests.browser.studio_service import resize
from tests.unit.packs.test_outline_tracing import disc

pytestmark = pytest.mark.slow
SIZE_PX = 300
SHOW = """
    const [family, size] = values;
    await document.fonts.load(`${size}px "${family}"`, '\\ue000');
    document.body.replaceChildren();
    const node = document.createElement('div');
    Object.assign(node.style, { font: `${size}px "${family}"`, position: 'fixed', left: 0, top: 0, lineHeight: 1 });
    node.textContent = '\\ue000';
    document.body.style.background = '#fff';
    document.body.append(node);
    await new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(resolve)));
"""


@pytest.fixture
def pack(tmp_path):
    """The address of an unpacked font pack with a red disc, whose edges are smooth."""
    stream = io.BytesIO()
    Image.fromarray(disc(50)).save(stream, "PNG")
    archive, _ = build_pack([SourcePicture("disc.png", stream.getvalue())], PackOptions("font", "blobs"))
    zipfile.ZipFile(io.BytesIO(archive)).extractall(tmp_path)
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, without a log."""

    def log_message(self, *_):
        """Say nothing."""


@pytest.mark.parametrize("family", ["blobs", "blobs outlines"])
def test_chromium_draws_the_emoji_of_both_fonts_in_their_colours(studio_browser, pack, family):
    page = StudioPage(studio_browser, pack)
    resize(studio_browser, 800)
    studio_browser.get(f"{pack}/index.html")
    assert len(studio_browser.find_elements("css selector", ".emoji")) == 2
    page.script(SHOW, family, SIZE_PX)
    with Image.open(io.BytesIO(studio_browser.get_screenshot_as_png())) as image:
        shown = np.asarray(image.convert("RGB"))[: SIZE_PX + 60, : SIZE_PX + 20].astype(int)
    red = (np.abs(shown - (200, 30, 30)).sum(2) < 24).sum()
    # The picture is trimmed and placed on its canvas, so its disc is as wide as the em, less a margin.
    assert 0.6 * SIZE_PX**2 < red < SIZE_PX**2
    between = ((shown[..., 1] > 60) & (shown[..., 1] < 225)).sum()
    print(f"{family}: {red} red pixels, {between} of edges")
    if family == "blobs outlines":
        assert between < 0.02 * SIZE_PX**2, "outlines are crisp at any size"
