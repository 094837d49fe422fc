"""The command `pack`."""

import json
import zipfile

import pytest

from ray_jobs.cli.main import main
from tests.unit.packs.pictures import face_png


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blobs").mkdir()
    for number, prompt in enumerate(["a happy blob", "a sad blob"]):
        (tmp_path / f"blobs/{number:04d}.png").write_bytes(face_png(prompt=prompt, seed="1"))
    return tmp_path


def error(capsys, *words):
    assert main(["pack", *words]) != 0
    text = capsys.readouterr().err
    assert text.count("\n") == 1 and text.startswith("error: ")
    return text


def test_a_folder_becomes_a_pack_and_the_summary_says_what_was_done(folder, capsys):
    (folder / "blobs/paper.png").write_bytes(b"%PDF")
    assert main(["pack", "blobs", "--target", "discord", "--outline", "4"]) == 0
    with zipfile.ZipFile(folder / "blobs-discord.zip") as archive:
        assert {"emoji/happy_blob.png", "emoji/sad_blob.png"} <= {*archive.namelist()}
    summary = capsys.readouterr().err
    assert "paper.png skipped: no known image format" in summary
    assert "needs an account with 50 free (of 50, 100, 150, 250)" in summary


def test_the_summary_as_json_and_a_licence_from_a_file(folder, capsys):
    (folder / "terms.txt").write_text("Do what you like.\n")
    assert main(["pack", "blobs", "-t", "slack", "-o", "out.zip", "--license", "terms.txt", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["file"], report["target"], report["num_pictures"]) == ("out.zip", "slack", 2)
    with zipfile.ZipFile("out.zip") as archive:
        assert archive.read("LICENSE.txt") == b"Do what you like.\n"


def test_mistakes_are_one_line_each_and_leave_no_file(folder, capsys):
    before = sorted(folder.iterdir())
    assert "there is no folder nowhere" in error(capsys, "nowhere", "-t", "slack")
    assert "did you mean 'slack'?" in error(capsys, "blobs", "-t", "slak")
    assert "must end in .zip" in error(capsys, "blobs", "-t", "slack", "-o", "x.tar")
    assert "there is no folder no" in error(capsys, "blobs", "-t", "slack", "-o", "no/x.zip")
    assert "takes 0 to 16 px" in error(capsys, "blobs", "-t", "slack", "--outline", "99")
    assert "a pack has 3 to 30 pictures, and here are 2; add some" in error(capsys, "blobs", "-t", "whatsapp")
    assert sorted(folder.iterdir()) == before
