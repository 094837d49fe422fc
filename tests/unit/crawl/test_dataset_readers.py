"""Readers of other datasets: every file format, and sources that cannot be read."""

import csv
import io
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emoji_ldm.crawl.dataset_import import import_dataset
from emoji_ldm.errors import ConfigError
from emoji_ldm.schemas import IMAGES, OUTCOMES
from tests.emoji_images import blobs
from tests.unit.crawl.import_target import captions_of, config, table


def test_a_list_in_a_text_column_is_several_captions(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    for number, picture in enumerate(blobs(3)):
        (folder / f"{number}.png").write_bytes(picture.data)
    cells = ['["one, two", "three"]', "['it is', \"it's\"]", "[sticker] four"]
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file_name", "captions"], *([f"{n}.png", cell] for n, cell in enumerate(cells))])
    target = config(tmp_path)
    import_dataset(target, str(folder))
    assert captions_of(target) == ["[sticker] four", "it is", "it's", "one, two", "three"]


def test_metadata_jsonl_is_read(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    (folder / "1.png").write_bytes(blobs(1)[0].data)
    (folder / "metadata.jsonl").write_text('{"file_name": "1.png", "text": ["a face", "a smile"]}\n')
    target = config(tmp_path)
    import_dataset(target, str(folder))
    assert captions_of(target) == ["a face", "a smile"]
    (folder / "metadata.jsonl").write_text('{"name": "1.png"}\n')
    with pytest.raises(ConfigError, match=r"metadata\.jsonl has no column file_name \(columns: name\)"):
        import_dataset(target, str(folder))


def test_parquet_and_tar_files_without_our_columns_are_read(tmp_path):
    pictures = [picture.data for picture in blobs(4)]
    rows = pa.table({"png": pa.array(pictures[:2], pa.binary()), "text": ["one", ""]})
    (tmp_path / "parquet").mkdir()
    pq.write_table(rows, tmp_path / "parquet" / "x.parquet")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for number, data in enumerate(pictures[2:]):
            for ending, content in (("jpg", data), ("cls", b"7"), ("txt", b"from a tar")):
                info = tarfile.TarInfo(f"./samples/{number}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    target = config(tmp_path)
    assert import_dataset(target, str(tmp_path / "parquet"))["captions"] == 1
    summary = import_dataset(target, str(tmp_path / "x.tar"))
    assert (summary["pictures"], summary["captions"], summary["images"]) == ({"kept": 2}, 2, 4)
    urls = sorted(table(target, OUTCOMES).keys())
    assert urls[0].endswith("parquet/x.parquet#0") and urls[-1].endswith("x.tar#./samples/1")


def test_a_text_file_beside_an_image_has_a_caption_per_line(tmp_path, capsys):
    folder = tmp_path / "faces"
    folder.mkdir()
    (folder / "1.png").write_bytes(blobs(1)[0].data)
    (folder / "1.txt").write_text("She smiles.\r\n\nShe has wavy hair.\n")
    (folder / "list.csv").write_text("1.png,a face")
    target = config(tmp_path)
    assert import_dataset(target, str(folder))["captions"] == 2
    assert captions_of(target) == ["She has wavy hair.", "She smiles."]
    assert "import: not read: list.csv (captions are read from metadata.csv" in "".join(capsys.readouterr())


def test_sources_without_images_are_config_errors_of_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no .*nowhere"):
        import_dataset(config(tmp_path), str(tmp_path / "nowhere"))
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "records.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"file endings: json\); URLs are crawled: emoji-ldm crawl"):
        import_dataset(config(tmp_path), str(tmp_path / "records"))
    (tmp_path / "records" / "x.parquet").write_bytes(b"no Parquet")
    with pytest.raises(ConfigError, match=r"x\.parquet cannot be read"):
        import_dataset(config(tmp_path), str(tmp_path / "records"))
    pq.write_table(pa.table({"image": ["a.png"]}), tmp_path / "records" / "x.parquet")
    with pytest.raises(ConfigError, match=r"no column `image` of bytes \(columns: image string\)"):
        import_dataset(config(tmp_path), str(tmp_path / "records"))
    assert not table(config(tmp_path), IMAGES).exists
