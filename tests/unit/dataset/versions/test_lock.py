"""The lock of a store: one holder at a time, and none for ever."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from emoji_ldm.dataset.versions import lock
from emoji_ldm.dataset.versions.lock import store_lock
from emoji_ldm.errors import DatasetError


def test_a_holder_that_died_is_in_the_way_for_five_minutes_at_most(store):
    ended = {"who": "vacuum", "token": "x", "until": (datetime.now(UTC) - timedelta(seconds=1)).isoformat()}
    store.write(json.dumps(ended).encode(), *lock.LOCK_PATH)
    with store_lock(store, "tag v1") as held:
        held.until -= lock.LOCK_DURATION / 2
        held.renew()
        assert held.until > datetime.now(UTC) + lock.LOCK_DURATION / 2, "renewed"
        held.until = datetime.now(UTC) - timedelta(seconds=1)
        with pytest.raises(DatasetError, match="tag v1 took too long and lost its lock"):
            held.renew()
