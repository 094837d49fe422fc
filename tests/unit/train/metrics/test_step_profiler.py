"""A trace of the steps that were asked for."""

import gzip
import json

import pytest

from emoji_ldm.config import load
from emoji_ldm.errors import ConfigError
from emoji_ldm.train.metrics.step_profiler import union_s
from emoji_ldm.train.metrics.training_metrics import read_log
from tests.unit.train.tiny import losses, run, store_of


@pytest.mark.slow
def test_a_trace_of_two_steps_is_stored_and_its_shares_are_noted(tmp_path):
    run(tmp_path / "traced", "train.steps=5", "train.profile=2:4")
    store = store_of(tmp_path / "traced")
    trace = json.loads(gzip.decompress(store.read("runs", "tiny", "train", "trace-2-4.json.gz")))
    names = [event.get("name", "") for event in trace["traceEvents"]]
    assert sum("Optimizer.step#" in name for name in names) == 2
    (note,) = [note for line in read_log(store, "tiny") for note in line.get("notes", [])]
    assert note.startswith("steps 2 to 4 took ") and "communication 0.0 %, data wait" in note
    assert note.endswith("/runs/tiny/train/trace-2-4.json.gz at https://ui.perfetto.dev")
    run(tmp_path / "plain", "train.steps=5")
    assert losses(tmp_path / "traced") == losses(tmp_path / "plain")


def test_a_trace_that_the_last_step_cuts_short_is_dropped(tmp_path):
    assert run(tmp_path, "train.steps=3", "train.profile=2:9")["steps"] == 3
    assert not [name for name in store_of(tmp_path).list("runs", "tiny", "train") if "trace" in name]


@pytest.mark.parametrize("value", ["5:5", "9:2", "5", "a:b", "-1:3"])
def test_a_range_without_steps_is_refused(value):
    with pytest.raises(ConfigError, match=r"profile"):
        load(None, [f"train.profile={value}"])


def test_time_that_several_events_share_counts_once():
    assert union_s([(0, 10), (5, 20), (30, 40), (32, 35)]) == pytest.approx(30e-6)
