"""The check of finished packs: each broken rule is found in the bytes, and named with its file."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from emoji_ldm.errors import PackError
from emoji_ldm.packs.pack_builder import PackOptions, build_pack
from emoji_ldm.packs.pack_layout import write_zip
from emoji_ldm.packs.pack_rules import check_count, verify
from emoji_ldm.packs.source_pictures import SourcePicture
from emoji_ldm.packs.target_limits import TARGETS
from tests.unit.packs.pictures import face, face_png, png

DISCORD = TARGETS["discord"]
NAMES = ["cat", "dog"]


def files_of(target):
    archive, _ = build_pack([SourcePicture(f"{name}.png", face_png()) for name in NAMES], PackOptions(target))
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def webp(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "WEBP")
    return stream.getvalue()


def animated():
    stream = io.BytesIO()
    frames = [Image.fromarray(face(128)), Image.fromarray(face(128)[::-1])]
    frames[0].save(stream, "PNG", save_all=True, append_images=frames[1:])
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (face_png(64), r"emoji/cat.png: is 64x64 px, must be square of 128 px"),
        (b"\x89PNG nonsense", r"emoji/cat.png: cannot be read back"),
        (webp(face(128)), r"emoji/cat.png: is webp, must be png"),
        (png(np.zeros((128, 128, 4), np.uint8)), r"emoji/cat.png: shows nothing"),
        (animated(), r"emoji/cat.png: is animated"),
        (face_png(128) + bytes(262_144), r"emoji/cat.png: 26\d,\d+ bytes, must be below 262,144"),
        (None, r"cat: the picture is missing in the ZIP"),
    ],
)
def test_a_picture_that_breaks_a_rule_is_named(data, says):
    files = files_of("discord")
    files.pop("emoji/cat.png")
    with pytest.raises(PackError, match=says):
        verify(write_zip({**files, **({"emoji/cat.png": data} if data else {})}), DISCORD, NAMES)


@pytest.mark.parametrize(
    ("names", "says"),
    [(["cat", "a dog"], "a dog: is no name for Discord emoji"), (["cat", "CAT"], "two emoji have this name")],
)
def test_names_are_checked(names, says):
    with pytest.raises(PackError, match=says):
        verify(write_zip(files_of("discord")), DISCORD, names)


def test_a_damaged_archive_is_found():
    data = bytearray(write_zip(files_of("discord")))
    place = data.find(b"IDAT")
    data[place + 9] ^= 0xFF
    with pytest.raises(PackError, match="its checksum in the ZIP is wrong"):
        verify(bytes(data), DISCORD, NAMES)


@pytest.mark.parametrize(
    ("target", "path", "says"),
    [("sprite", "emoji.css", "emoji.css: has no rule for"), ("font", "emoji.ttf", "emoji.ttf: cannot be read back"),
     ("discord", "manifest.json", "manifest and licence")],
)  # fmt: skip
def test_a_pack_without_one_of_its_own_files_is_refused(target, path, says):
    files = files_of(target)
    if path == "manifest.json":
        del files[path]
    else:
        files[path] = b"nothing"
    with pytest.raises(PackError, match=says):
        verify(write_zip(files), TARGETS[target], NAMES)


def test_more_pictures_than_a_target_takes_are_refused_with_a_remedy():
    check_count(DISCORD, 250)
    with pytest.raises(PackError, match="1 to 250 pictures, and here are 251; make several packs"):
        check_count(DISCORD, 251)
