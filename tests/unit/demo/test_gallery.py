"""The gallery as a whole and as a command."""

import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from emoji_ldm.demo.gallery import Gallery
from emoji_ldm.errors import ConfigError
from tests.unit.demo.site_client import get, pixels


@pytest.fixture(scope="module")
def site():
    with Gallery(num_openmoji=0, slow_s=2) as open_site:
        yield open_site


@pytest.mark.slow
def test_the_default_gallery_has_539_distinct_emoji(tmp_path):
    with Gallery(cache_dir=tmp_path) as site:
        tiles = [tile for tile in site._serving.tiles if tile.kind == "good"]
        assert len(tiles) == site.ground_truth["counts"]["good"] == 539
        assert len({pixels(tile.data) for tile in tiles}) == 539


def test_a_port_in_use_is_a_config_error(site):
    with pytest.raises(ConfigError, match="Choose another"):
        Gallery(num_openmoji=0, port=urlsplit(site.url).port).start()


@pytest.mark.slow
def test_the_command_prints_its_url_and_ends_on_sigterm():
    command = [sys.executable, "-m", "emoji_ldm.demo.gallery", "--num-openmoji", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert get(process.stdout.readline().strip())[0] == 200
        process.terminate()
        assert process.wait(timeout=5) == 0
