"""What owners have used: counted over processes, and not lost while the store is away."""

import pytest

from emoji_ldm.errors import StoreError
from emoji_ldm.serve.state import usage_meter
from emoji_ldm.serve.state.usage_meter import UsageMeter


def test_processes_add_up(tmp_path):
    one, other = (UsageMeter(str(tmp_path)) for _ in range(2))
    one.count("ann@x", images=3, requests=1)
    other.count("ann@x", images=-1)
    other.count("bob", images=5)
    assert [*one.days("ann@x").values()] == [{"images": 3, "requests": 1}], "before it is written"
    one.flush()
    other.flush()
    one.flush()
    for meter in (one, other, UsageMeter(str(tmp_path))):
        assert [*meter.days("ann@x").values()] == [{"images": 2, "requests": 1}]


def test_nothing_is_lost_while_the_store_is_away(tmp_path, monkeypatch):
    meter, change = UsageMeter(str(tmp_path)), usage_meter.change_file
    meter.count("ann", images=1)
    meter.count("bob", images=1)
    monkeypatch.setattr(usage_meter, "change_file", lambda *_: (_ for _ in ()).throw(StoreError("away")))
    with pytest.raises(StoreError):
        meter.flush()
    meter.count("ann", images=1)
    monkeypatch.setattr(usage_meter, "change_file", change)
    meter.flush()
    assert [*UsageMeter(str(tmp_path)).days("ann").values()] == [{"images": 2}]
    assert [*UsageMeter(str(tmp_path)).days("bob").values()] == [{"images": 1}]


def test_old_days_are_dropped_and_the_newest_comes_first(monkeypatch):
    stored = {f"2020-01-{day:02}": {"images": day} for day in range(1, 31)}
    monkeypatch.setattr(usage_meter, "MAX_DAYS", 3)
    assert [*usage_meter._added(stored, {})] == ["2020-01-28", "2020-01-29", "2020-01-30"]


def test_without_a_store_it_counts_in_this_process():
    meter = UsageMeter(None)
    meter.count("ann", images=2)
    meter.flush()
    assert [*meter.days("ann").values()] == [{"images": 2}]
