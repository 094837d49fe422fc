"""Tests of `emoji-ldm keys`."""

import stat

import pytest

from emoji_ldm.serve.api_keys import new_key, read_keys, write_keys
from ray_jobs.cli.main import main


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "keys.json")


def add(path, name="alice"):
    write_keys(path, (new_key(name, "interactive", 0, None)[1],))


def test_the_command_prints_a_key_once_and_stores_only_its_hash(path, capsys, tmp_path):
    assert main(["keys", "add", "alice", "--quota", "60", "--expires", "30d", f"serve.keys={path}"]) == 0
    secret = capsys.readouterr().out.strip()
    [key] = read_keys(path)
    assert len(secret) > 43 and secret[9:] not in (tmp_path / "keys.json").read_text()
    assert (key.name, key.kind, key.images_per_minute) == ("alice", "interactive", 60) and not key.expired()
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600
    assert main(["keys", "list", f"serve.keys={path}"]) == 0
    assert "alice" in (shown := capsys.readouterr().out) and "60 images/min" in shown and secret not in shown
    assert main(["keys", "revoke", "alice", f"serve.keys={path}"]) == 0
    assert read_keys(path) == ()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["add", "alice"], "there is a key 'alice' already"),
        (["add", "a b"], "refused"),
        (["add"], "takes one name"),
        (["add", "bob", "--expires", "soon"], "write 30d"),
        (["add", "bob", "--expires", "2020-01-01"], "is in the past"),
        (["add", "bob", "--quota", "-1"], "images a minute"),
        (["revoke", "alcie"], "did you mean 'alice'?"),
        (["list", "alice"], "list does not take 'alice'"),
    ],
)
def test_a_mistake_prints_one_line_and_changes_nothing(path, words, text, capsys):
    add(path)
    before = read_keys(path)
    assert main(["keys", *words, f"serve.keys={path}"]) == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1 and read_keys(path) == before


@pytest.mark.parametrize("words", [["add", "alice"], ["list", "serve.keys=none.json"]])
def test_without_a_key_file_the_command_says_how_to_name_one(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["keys", *words]) == 2
    assert "serve.keys=" in capsys.readouterr().err
