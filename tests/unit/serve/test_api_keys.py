"""Tests of the key file: hashing, atomic and concurrent changes."""

import stat
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from emoji_ldm.errors import ConfigError, StoreError
from emoji_ldm.serve import api_keys, shared_file
from emoji_ldm.serve.api_keys import change_keys, new_key, read_keys, write_keys

OTHER = new_key("other", "bulk", 0, None)[1]


class FakeObject:
    """The S3 object of a key file. Another writer is faster than the first PUT, or the response to that PUT is lost."""

    def __init__(self, loses_response=False):
        self.data, self.etag, self.loses_response, self.num_puts = b"", 0, loses_response, 0

    def read_with_etag(self, path):
        return (self.data, str(self.etag)) if self.etag else None

    def put_if_match(self, data, path, etag):
        self.num_puts += 1
        if self.num_puts == 1 and not self.loses_response:
            self.data, self.etag = api_keys.KEY_FILE.dump_json({"keys": (OTHER,)}), self.etag + 1
        if etag != str(self.etag):
            return False
        self.data, self.etag = data, self.etag + 1
        return not self.loses_response

    def put_if_absent(self, data, path):
        return self.put_if_match(data, path, "0")


def add_to_object(monkeypatch, fake):
    """Add alice's key to a key file in S3; returns the keys there."""
    monkeypatch.setattr(shared_file, "s3", fake)
    alice = new_key("alice", "interactive", 0, None)[1]
    change_keys("s3://bucket/keys.json", lambda keys: (*(keys or ()), alice))
    return api_keys.KEY_FILE.validate_json(fake.data)["keys"]


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


@pytest.mark.parametrize(("loses_response", "names"), [(False, ["other", "alice"]), (True, ["alice"])])
def test_the_loser_of_a_compare_and_swap_retries_and_a_lost_response_adds_no_second_key(
    loses_response, names, monkeypatch
):
    assert [key.name for key in add_to_object(monkeypatch, FakeObject(loses_response))] == names


def test_a_writer_that_always_loses_gives_up(monkeypatch):
    class ContestedObject(FakeObject):
        def put_if_match(self, data, path, etag):
            self.data, self.etag, self.num_puts = b'{"keys": []}', self.etag + 1, self.num_puts + 1
            return False

    monkeypatch.setattr(shared_file, "MAX_PAUSE_S", 0)
    contested = ContestedObject()
    with pytest.raises(StoreError, match="run the command again"):
        add_to_object(monkeypatch, contested)
    assert contested.num_puts == shared_file.MAX_TRIES


def test_a_key_is_stored_as_its_hash_in_a_file_of_the_owner_only(path, tmp_path):
    secret, key = new_key("alice", "bulk", 60, datetime.now(UTC) + timedelta(days=1))
    write_keys(path, (key,))
    assert read_keys(path) == (key,) and key.sha256 == api_keys.hash_key(secret) and not key.expired()
    assert secret.startswith("sk-emoji-") and secret[9:] not in (tmp_path / "keys.json").read_text()
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600


def test_a_missing_file_is_none_and_another_file_a_config_error(path, tmp_path):
    assert read_keys(path) is None
    (tmp_path / "keys.json").write_text('{"keys": [{"name": "a"}]}')
    with pytest.raises(ConfigError, match="not a key file"):
        read_keys(path)
    with pytest.raises(StoreError, match="is a folder"):
        read_keys("s3://bucket/")


def test_a_scope_of_a_newer_release_permits_nothing_and_stays_in_the_file(path):
    """A service that refused the file would not start after a newer command had added a key."""
    newer = '{"keys": [{"name": "a", "sha256": "00", "scopes": ["painting"]}]}'
    shared_file.write_file(path, newer.encode())
    (key,) = read_keys(path)
    assert not any(key.permits(scope) for scope in api_keys.SCOPES)
    change_keys(path, lambda old: (*old, OTHER))
    assert read_keys(path)[0].scopes == ("painting",)
