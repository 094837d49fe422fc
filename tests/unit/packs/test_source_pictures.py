"""Reading the pictures of a folder."""

import pytest

from emoji_ldm.errors import ConfigError
from emoji_ldm.outcomes import Rejected
from emoji_ldm.packs.source_pictures import SourcePicture, read_folder
from tests.unit.packs.pictures import face_png


def test_pictures_of_subfolders_are_read_in_order_without_contact_sheets_and_hidden_files(tmp_path):
    for name in ("b.png", "a/c.png", "sheet.png", ".fetched/x.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(face_png())
    assert [each.file for each in read_folder(tmp_path)] == ["a/c.png", "b.png"]


def test_a_file_states_its_origin_and_a_list_beside_it_adds_to_that(tmp_path):
    (tmp_path / "0.png").write_bytes(face_png(prompt="a cat", seed="7", dataset_images="3", Software="x"))
    (tmp_path / "prompts.csv").write_text("file,prompt,steps\n0.png,another,20\n")
    [picture] = read_folder(tmp_path)
    pixels, statements = picture.decode()
    assert pixels.shape == (64, 64, 4)
    assert statements == {"prompt": "a cat", "seed": "7", "dataset_images": "3", "steps": "20"}
    assert picture.wanted_name(statements) == "cat"


def test_an_export_of_a_data_set_names_pictures_by_their_titles(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/cat_0.png").write_bytes(face_png())
    (tmp_path / "metadata.csv").write_text(
        "file_name,image_url,image_title,tag\nimages/cat_0.png,http://x/c,Cool cat,\n"
    )
    [picture] = read_folder(tmp_path)
    statements = picture.decode()[1]
    assert picture.wanted_name(statements) == "cool_cat" and statements["source_url"] == "http://x/c"


def test_a_file_that_is_no_picture_says_so_when_it_is_decoded():
    with pytest.raises(Rejected, match="no known image format"):
        SourcePicture("paper.png", b"%PDF-1.7").decode()


@pytest.mark.parametrize(("make", "says"), [(False, "there is no folder"), (True, "holds no .png")])
def test_a_missing_or_empty_folder_is_one_clear_line(tmp_path, make, says):
    if make:
        (tmp_path / "in").mkdir()
    with pytest.raises(ConfigError, match=says):
        read_folder(tmp_path / "in")
