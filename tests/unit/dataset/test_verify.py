"""Verification finds what is damaged, and only that."""

from pathlib import Path

import pyarrow as pa

from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.verify import verify
from emoji_ldm.schemas import CAPTIONS, IMAGES
from tests.emoji_images import blobs, image_rows


def pictures(store):
    table, rows = Table(store, IMAGES), image_rows(blobs(4))
    table.commit([table.write_file(rows)], app_id="one", metadata={})
    return table, rows


def test_verify_finds_a_picture_that_is_not_its_id(store):
    table, rows = pictures(store)
    assert not verify({"images": table}).problems and verify({"images": table}).rows == {"images": 4}
    broken = rows.slice(0, 2).to_pylist()
    broken[0] |= {"image_id": "0" * 64}
    broken[1] |= {"image_id": "1" * 64, "image": {"bytes": b"\x89PNG no", "path": ""}}
    table.commit([table.write_file(pa.Table.from_pylist([*broken, rows.to_pylist()[3]], IMAGES.schema))],
                 app_id="two", metadata={})  # fmt: skip
    found = {problem.key[:2]: problem.reason for problem in verify({"images": table}).problems}
    assert found.pop("00") == "pixels have another hash" and "cannot be decoded" in found.pop("11")
    assert list(found.values()) == ["key occurs twice"]


def test_verify_finds_flipped_bits_missing_files_and_orphans(store):
    table, rows = pictures(store)
    captions = Table(store, CAPTIONS)
    wanted = [{"caption_id": "c1", "image_id": rows["image_id"][0].as_py()}, {"caption_id": "c2", "image_id": "gone"}]
    filled_rows = [{name: row.get(name) for name in CAPTIONS.schema.names} for row in wanted]
    file = captions.write_file(pa.Table.from_pylist(filled_rows, CAPTIONS.schema))
    captions.commit([file], app_id="one", metadata={})
    found = verify({"captions": captions, "images": table})
    assert [(orphan.key, orphan.reason) for orphan in found.orphans] == [("c2", "there is no image gone")]
    assert not found.problems, "a refresh leaves captions of pictures that changed: readers pass them by"
    path = Path(table.resolve(next(iter(table.live_files()))))
    data = bytearray(path.read_bytes())
    place = data.index(b"IDAT") + 8
    data[place] ^= 255
    path.write_bytes(data)
    reasons = [problem.reason for problem in verify({"images": table}).problems]
    assert "CRC" in reasons[0] and any("hash" in reason or "decoded" in reason for reason in reasons[1:])
    path.unlink()
    assert "does not exist" in verify({"images": table}).problems[0].reason
