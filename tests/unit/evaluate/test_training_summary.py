"""What the report shows of a training."""

import json

import pytest

from emoji_ldm.evaluate.training_summary import summarize_trainings
from emoji_ldm.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def write_log(store, lines, section="train"):
    store.write("\n".join(map(json.dumps, lines)).encode(), "runs", "r", section, "losses.jsonl")


def log_lines(count, **fields):
    return [{"step": 10 * n, "loss": 1 / n, "grad_norm": 2 / n, "lr": 1e-3, "images_per_s": 80.0, "step_s": 0.2,
             "data_wait": 0.01, "time_s": 2.0 * n, **fields} for n in range(1, count + 1)]  # fmt: skip


def test_a_run_without_a_training_has_no_summary(store):
    assert summarize_trainings(store, "r") == {}


def test_both_trainings_of_a_run_are_summarized(store):
    write_log(store, log_lines(40))
    write_log(store, log_lines(3), "autoencoder")
    found = summarize_trainings(store, "r")
    assert (found["train"]["steps"], found["autoencoder"]["steps"]) == (400, 30)
    rows = dict(found["train"]["rows"])
    assert (rows["steps"], rows["step time"], rows["waiting for data"]) == ("400", "200 ms", "1.0 %")
    assert [chart["name"] for chart in found["train"]["charts"]] == ["Loss", "Gradient norm"]


def test_the_loss_chart_has_a_curve_for_each_kind_of_loss_in_the_log(store):
    lines = log_lines(40)
    write_log(store, lines)
    assert [curve.name for curve in summarize_trainings(store, "r")["train"]["charts"][0]["curves"]] == ["raw", "mean"]
    for line in lines[9::10]:
        line |= {"validation_loss": 0.5, "validation_loss_ema": 0.4}
    write_log(store, lines)
    curves = summarize_trainings(store, "r")["train"]["charts"][0]["curves"]
    assert [curve.name for curve in curves] == ["raw", "mean", "validation", "validation-ema"]
    assert curves[2].points == [(100, 0.5), (200, 0.5), (300, 0.5), (400, 0.5)]


def test_a_line_that_is_still_being_written_is_ignored(store):
    whole = "\n".join(map(json.dumps, log_lines(3)))
    store.write((whole + '\n{"step": 40, "lo').encode(), "runs", "r", "train", "losses.jsonl")
    assert summarize_trainings(store, "r")["train"]["steps"] == 30


def test_a_log_without_times_has_no_speed(store):
    write_log(store, [{"step": 10, "loss": 0.5}, {"step": 20, "loss": 0.4}])
    assert dict(summarize_trainings(store, "r")["train"]["rows"]) == {"steps": "20"}


def test_skipped_steps_and_notes_become_warnings_of_which_the_first_are_shown(store):
    lines = log_lines(30)
    lines[0]["bad"] = {"7": "nan"}
    for line in lines:
        line["notes"] = ["mlflow does not answer"]
    write_log(store, lines)
    warnings = summarize_trainings(store, "r")["train"]["warnings"]
    assert warnings[:2] == ["step 7: skipped, its gradient norm was nan", "step 10: mlflow does not answer"]
    assert len(warnings) == 21 and warnings[-1] == "and 11 more"


def test_sample_grids_are_chosen_evenly_from_the_first_to_the_last(store):
    write_log(store, log_lines(2))
    for step in range(100, 1200, 100):
        store.write(b"%d" % step, "runs", "r", "train", "samples", f"step-{step:08}.png")
        store.write(b"pair", "runs", "r", "train", "pairs", f"step-{step:08}.png")
    found = summarize_trainings(store, "r")["train"]
    assert found["samples"] == [(step, b"%d" % step) for step in (100, 300, 500, 700, 900, 1100)]
    assert found["pairs"] == [(1100, b"pair")]
