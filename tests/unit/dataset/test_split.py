"""Parts by content hash: deterministic, stable under growth, near the fractions."""

import pyarrow.parquet as pq
import pytest

from emoji_ldm.dataset.split import assign_part, is_held_out, parse_fractions, split_images
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import ConfigError, DatasetError
from emoji_ldm.schemas import IMAGES
from emoji_ldm.store import Store
from tests.emoji_images import blobs, fill_images, image_rows

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}


def test_parts_come_near_their_fractions_and_another_salt_deals_anew():
    ids = [f"{number:064x}" for number in range(5000)]
    parts = [assign_part(image_id, FRACTIONS) for image_id in ids]
    assert [parts.count(name) / 5000 for name in FRACTIONS] == pytest.approx([0.8, 0.1, 0.1], abs=0.02)
    assert parts == [assign_part(image_id, FRACTIONS) for image_id in ids]
    moved = sum(assign_part(image_id, FRACTIONS, "other") != part for image_id, part in zip(ids, parts, strict=True))
    assert 1000 < moved < 2500


def test_an_image_keeps_its_part_when_the_data_set_grows(tmp_path):
    store = Store(str(tmp_path / "store"))
    fill_images(store, blobs(40))
    table = Table(store, IMAGES)
    counts = split_images(table, FRACTIONS, target=str(tmp_path / "before.parquet"))
    assert sum(counts.values()) == 40 and list(counts) == list(FRACTIONS)
    more = image_rows(blobs(60)).slice(40)
    table.commit([table.write_file(more)], app_id="more", metadata={})
    split_images(table, FRACTIONS, target=str(tmp_path / "after.parquet"))
    before, after = (dict(zip(*pq.read_table(tmp_path / f"{name}.parquet").to_pydict().values(), strict=True))
                     for name in ("before", "after"))  # fmt: skip
    assert len(after) == 60 and before.items() < after.items()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train=0.9,val=0.2", r"add up to 1\.1, not 1"),
        ("train=0.9,val", "'val' is not NAME=FRACTION"),
        ("train=1.5,val=-0.5", "train=1.5 is not allowed"),
        ("a/b=1", "name 'a/b' is not allowed"),
    ],
)
def test_a_wrong_split_is_named(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_fractions(text)


def test_targets_and_empty_tables_are_refused(tmp_path):
    store = Store(str(tmp_path / "store"))
    with pytest.raises(DatasetError, match="no images to split"):
        split_images(Table(store, IMAGES), FRACTIONS)
    fill_images(store, blobs(4))
    (tmp_path / "there.parquet").touch()
    with pytest.raises(ConfigError, match="exists"):
        split_images(Table(store, IMAGES), FRACTIONS, target=str(tmp_path / "there.parquet"))
    with pytest.raises(ConfigError, match=r"end it with \.parquet"):
        split_images(Table(store, IMAGES), FRACTIONS, target=str(tmp_path / "there.csv"))
    assert parse_fractions("") == {} and parse_fractions("train=0.9, val=0.1") == {"train": 0.9, "val": 0.1}


def test_a_training_holds_out_its_fraction_by_seed_and_nothing_at_zero():
    ids = [f"{number:064x}" for number in range(2000)]
    held = [is_held_out(image_id, 0.05, 0) for image_id in ids]
    assert sum(held) / 2000 == pytest.approx(0.05, abs=0.02)
    assert held != [is_held_out(image_id, 0.05, 1) for image_id in ids]
    assert not any(is_held_out(image_id, 0.0, 0) for image_id in ids)
