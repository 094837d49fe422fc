"""Format webdataset: reproducible tar shards."""

import tarfile

from emoji_ldm.dataset.split import assign_part
from tests.unit.dataset.exports import SPLITS, open_dataset, run_export


def test_webdataset_is_the_same_to_the_byte_each_time_and_opens(tables, tmp_path):
    for name in ("one", "two"):
        run_export(tables, tmp_path / name, format="webdataset", captioned=True, splits=SPLITS)
    tars = sorted((tmp_path / "one").glob("*.tar"))
    assert tars and all(path.read_bytes() == (tmp_path / "two" / path.name).read_bytes() for path in tars)
    with tarfile.open(tars[0]) as tar:
        names = tar.getnames()
        assert [name.partition(".")[2] for name in names[:3]] == ["png", "json", "txt"]
        assert assign_part(names[0].partition(".")[0], SPLITS) == tars[0].name.partition("-")[0]
    assert sum(part.num_rows for part in open_dataset(tmp_path / "one", tmp_path / "cache").values()) == 2
