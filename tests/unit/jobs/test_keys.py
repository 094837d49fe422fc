"""Tests of `emoji-ldm keys`."""

import stat
from dataclasses import replace

import pytest

from emoji_ldm.serve.api_keys import new_key, read_keys, write_keys
from emoji_ldm.serve.image_quota import QuotaStore
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
        (["add", "bob", "--scopes", "images,all"], "'all' is refused; choose of images, jobs, read, models"),
        (["revoke", "alice", "--id", "00"], "no key of 'alice' has the id '00'"),
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


def test_keys_of_one_name_rotate_and_the_list_tells_them_apart(path, capsys, tmp_path):
    options = [f"serve.keys={path}", f"store={tmp_path / 'store'}"]
    assert main(["keys", "add", "alice", *options]) == 0
    assert main(["keys", "add", "alice", "--rotate", "--scopes", "read, images", *options]) == 0
    old, new = read_keys(path)
    assert old.name == new.name == "alice" and new.scopes == ("images", "read") and not new.permits("jobs")
    QuotaStore(f"{tmp_path / 'store'}/keys/usage").change(old.sha256, lambda usage: replace(usage, last_used=1.8e9))
    capsys.readouterr()
    assert main(["keys", "list", *options]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert old.id in first and "images,jobs,read" in first and "last used 2027-01-15T08:00Z" in first
    assert new.id in second and "not used yet" in second
    assert main(["keys", "revoke", "alice", "--id", old.id, *options]) == 0
    assert read_keys(path) == (new,)
