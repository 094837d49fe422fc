"""Logs of trainings as curves: bounded, whatever the log holds, and read again only when it has changed."""

import itertools
import json
import math

from emoji_ldm.serve.runs import run_logs
from emoji_ldm.serve.runs.run_logs import MAX_POINTS, RunLogs, ThinnedCurve
from emoji_ldm.store import Store
from tests.stored_dataset import log_line, write_log


def test_a_curve_stays_bounded_and_keeps_the_newest_point():
    curve = ThinnedCurve()
    for step in range(100_000):
        curve.add(step, step / 2)
    points = curve.whole()
    assert MAX_POINTS / 2 <= len(points) <= MAX_POINTS + 1
    assert points[0] == (0, 0) and points[-1] == (99_999, 99_999 / 2)
    steps = [step for step, _ in points[:-1]]
    assert len({later - earlier for earlier, later in itertools.pairwise(steps)}) == 1  # evenly chosen


def test_a_log_is_read_up_to_the_line_that_is_being_written(tmp_path):
    store = Store(str(tmp_path))
    write_log(store, [log_line(step) for step in range(0, 50, 10)], "r")
    whole = store.read("runs", "r", "train", "losses.jsonl")
    store.write(whole + b'{"step": 50, "lo', "runs", "r", "train", "losses.jsonl")
    log = RunLogs(store).read("r", "train")
    assert log.step == 40 and log.curves["loss"][-1] == (40, log_line(40)["loss"])
    assert log.memory_mb == [800, 820] and log.curves["peak_memory_mb"][0] == (0, 820)
    assert log.figures["images_per_s"] == 32
    assert RunLogs(store).read("r", "autoencoder") is None


def test_lines_that_no_training_wrote_crash_nothing(tmp_path):
    store, lines = Store(str(tmp_path)), [
        "3", "[]", "{", '{"step": "x"}', '{"loss": 1}', '{"step": NaN}', json.dumps({"step": 1, "loss": math.nan}),
        json.dumps({"step": 2, "loss": "x", "memory_mb": 7, "bad": [1], "lr": math.inf, "notes": ["a <b>"]}),
        json.dumps({"step": 3, "loss": True, "memory_mb": ["x", 5], "bad": {"3": "inf"}}), "\xff",
    ]  # fmt: skip
    store.write("\n".join(lines).encode("latin-1"), "runs", "r", "train", "losses.jsonl")
    log = RunLogs(store).read("r", "train")
    assert log.step == 3 and log.figures == {} and log.memory_mb == [5]
    assert log.notes == ["step 2: a <b>", "step 3: skipped, its gradient norm was inf"]


def test_a_log_is_parsed_again_only_when_it_has_changed(tmp_path, monkeypatch):
    store, parsed = Store(str(tmp_path)), []
    write_log(store, [log_line(0)], "r")
    monkeypatch.setattr(run_logs, "_parsed", lambda line, parse=run_logs._parsed: parsed.append(line) or parse(line))
    logs = RunLogs(store)
    assert logs.read("r", "train") is logs.read("r", "train") and len(parsed) == 2  # the line and the empty rest
    write_log(store, [log_line(0), log_line(10)], "r")
    assert logs.read("r", "train").step == 10
