"""Bearer keys in a store: a service on any machine reads them, and survives a store that cannot be reached."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest

from emoji_ldm.serve.api_keys import change_keys, new_key, read_keys
from emoji_ldm.serve.auth import ApiKeyCache
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.image_quota import ImageQuota, QuotaStore
from ray_jobs.cli.main import main


def caller(keys, secret):
    asyncio.run(keys.refresh())
    return keys.authenticate(f"Bearer {secret}")[0]


@pytest.mark.slow
def test_keys_in_a_store_are_made_read_again_and_revoked(s3_uri, monkeypatch, capsys):
    option = f"serve.keys={s3_uri}/keys.json"
    assert read_keys(f"{s3_uri}/keys.json") is None
    assert main(["keys", "add", "alice", "--class", "bulk", option]) == 0
    alice, keys = capsys.readouterr().out.strip(), ApiKeyCache(f"{s3_uri}/keys.json")
    assert caller(keys, alice).name == "alice" and not keys.keys[0].permits("images")
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


def test_processes_that_share_a_quota_in_a_store_stay_within_it(s3_uri):
    quotas = [ImageQuota("ann", 40, QuotaStore(f"{s3_uri}/keys/usage")) for _ in range(3)]
    now = time.time()

    def use(quota):
        return sum(quota.charge(4) == 0 for _ in range(12))

    with mock.patch.object(time, "time", lambda: now), ThreadPoolExecutor(3) as pool:
        drawn = 4 * sum(pool.map(use, quotas))
        assert 40 - 3 * 4 <= drawn <= 40
        assert ImageQuota("ann", 40, QuotaStore(f"{s3_uri}/keys/usage")).charge(40) > 0, "after a restart"
