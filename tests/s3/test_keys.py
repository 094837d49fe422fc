"""Bearer keys in a store: a service on any machine reads them, and survives a store that cannot be reached."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from emoji_ldm.serve.api_keys import change_keys, new_key, read_keys
from emoji_ldm.serve.auth import ApiKeyCache
from emoji_ldm.serve.errors import RequestError
from ray_jobs.cli.main import main


def caller(keys, secret):
    asyncio.run(keys.refresh())
    return keys.authenticate(f"Bearer {secret}")


@pytest.mark.slow
def test_keys_in_a_store_are_made_read_again_and_revoked(s3_uri, monkeypatch, capsys):
    option = f"serve.keys={s3_uri}/keys.json"
    assert read_keys(f"{s3_uri}/keys.json") is None
    assert main(["keys", "add", "alice", "--class", "bulk", option]) == 0
    alice, keys = capsys.readouterr().out.strip(), ApiKeyCache(f"{s3_uri}/keys.json")
    assert caller(keys, alice).bulk_only
    assert main(["keys", "add", "bob", option]) == 0
    bob = capsys.readouterr().out.strip()
    assert caller(keys, bob).name == "bob"
    assert main(["keys", "revoke", "alice", option]) == 0
    with pytest.raises(RequestError, match="key is unknown"):
        caller(keys, alice)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert caller(keys, bob).name == "bob"


def test_who_changes_them_at_the_same_time_loses_nothing_of_the_others(s3_uri):
    uri, names = f"{s3_uri}/keys.json", [f"key-{number}" for number in range(8)]

    def added(name):
        change_keys(uri, lambda keys: (*(keys or ()), new_key(name, "interactive", 0, None)[1]))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(added, names))
    assert sorted(key.name for key in read_keys(uri)) == names
