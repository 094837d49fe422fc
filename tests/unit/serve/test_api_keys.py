"""Tests of the key file: hashing, atomic and concurrent changes, the command that edits it."""

import stat
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from emoji_ldm.serve import api_keys as keys_module
from emoji_ldm.serve.api_keys import change_keys, new_key, read_keys, write_keys
from ray_jobs.cli.main import main


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "keys.json")


def add(path, name="alice", kind="interactive", quota=0, expires=None):
    secret, key = new_key(name, kind, quota, expires)
    write_keys(path, (*(read_keys(path) or ()), key))
    return secret


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


def test_concurrent_changes_of_a_local_file_are_all_kept(path, tmp_path):
    def added(name):
        def change(keys):
            time.sleep(0.01)
            return (*(keys or ()), new_key(name, "interactive", 0, None)[1])

        change_keys(path, change)

    names = [f"key-{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(added, names))
    assert sorted(key.name for key in read_keys(path)) == names
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in tmp_path.iterdir())


class FakeObject:
    """One object behind the requests that a change makes; the first PUT may win though its response is lost."""

    def __init__(self, loses_answer=False):
        self.data, self.tag, self.loses_answer, self.calls = b"", 0, loses_answer, 0

    def read_with_etag(self, path):
        return (self.data, str(self.tag)) if self.tag else None

    def put_if_match(self, data, path, tag):
        self.calls += 1
        if self.calls == 1 and not self.loses_answer:  # somebody else is quicker
            self.data, self.tag = keys_module.KEY_FILE.dump_json({"keys": (OTHER,)}), self.tag + 1
        if tag != str(self.tag):
            return False
        self.data, self.tag = data, self.tag + 1
        return not self.loses_answer

    def put_if_absent(self, data, path):
        return self.put_if_match(data, path, "0")


OTHER = new_key("other", "bulk", 0, None)[1]


@pytest.mark.parametrize(("loses_answer", "names"), [(False, ["other", "alice"]), (True, ["alice"])])
def test_the_loser_of_a_compare_and_swap_retries_and_a_lost_response_adds_no_second_key(
    loses_answer, names, monkeypatch, capsys
):
    fake = FakeObject(loses_answer)
    monkeypatch.setattr(keys_module, "s3", fake)
    assert main(["keys", "add", "alice", "serve.keys=s3://bucket/keys.json"]) == 0
    secret = capsys.readouterr().out.strip()
    kept = keys_module.KEY_FILE.validate_json(fake.data)["keys"]
    assert [key.name for key in kept] == names and kept[-1].sha256 == keys_module.hash_key(secret)


@pytest.mark.parametrize("words", [["add", "alice"], ["list", "serve.keys=none.json"]])
def test_without_a_key_file_the_command_says_how_to_name_one(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["keys", *words]) == 2
    assert "serve.keys=" in capsys.readouterr().err
