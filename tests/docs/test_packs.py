"""The commands and the table of the guide to packs."""

import re

import pytest

from emoji_ldm.packs.target_limits import KB, KIB, TARGETS
from tests.docs.pages import ROOT, guide, run
from tests.unit.packs.pictures import face_png

UNITS = {"KiB": KIB, "kB": KB}


@pytest.mark.slow
def test_the_commands_of_the_page_make_packs(here, capfd):
    (here / "emoji").mkdir()
    for number in range(3):
        (here / f"emoji/{number}.png").write_bytes(face_png(prompt="a happy blob"))
    for words in guide("packs", "pack"):
        run(words, capfd)
    assert (here / "emoji-discord.zip").is_file() and (here / "blobs.zip").is_file()


def test_the_table_of_the_page_is_that_of_the_code():
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \|", (ROOT / "docs/packs.md").read_text(), re.MULTILINE)
    shown = {name: rest for name, *rest in rows if name in TARGETS}
    assert shown.keys() == TARGETS.keys()
    for name, (pictures, below, holds) in shown.items():
        target = TARGETS[name]
        number, _, unit = below.partition(" ")
        assert target.max_bytes == (int(number) * UNITS[unit] if unit else None), name
        most = int(re.match(r"\d+ to ([\d,]+)", holds)[1].replace(",", ""))
        assert (int(holds[0]), most) == (target.min_pictures, target.max_pictures), name
        if name not in ("zip", "favicon"):
            assert f"{target.size_px} px" in pictures, name
