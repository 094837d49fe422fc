"""What a terminal shows of a training, line by line and at the end."""

from __future__ import annotations

import pytest

from emoji_ldm import progress
from emoji_ldm.progress import ProgressTracker, format_duration
from ray_jobs.execution.train_progress import ProgressPrinter, summary_rows


def line(step, **more):
    return {
        "step": step,
        "loss": 1 / step,
        "images_per_s": 80.0,
        "step_s": 0.1,
        "data_wait": 0.002,
        "skipped": 0,
        **more,
    }


@pytest.fixture
def tracker(monkeypatch):
    monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0.0)
    return ProgressTracker("train", 100, "steps", None)


def test_lines_show_loss_rate_wait_and_time_left(tracker, capfd):
    printer = ProgressPrinter("train", tracker, [])
    printer.show([line(10), line(20, validation_loss=0.5)])
    assert capfd.readouterr().err == (
        "train: 20/100 steps, loss 0.0500, validation 0.5000, 80.0 images/s, 100 ms/step, data wait 0.2 %, ETA 8 s\n"
    )
    printer.show([line(10), line(20)])
    printer.show(None)
    assert capfd.readouterr().err == ""


def test_lines_show_how_much_of_the_device_is_used_and_what_saving_costs(tracker, capfd):
    ProgressPrinter("train", tracker, []).show([line(10, mfu=0.423, communication=0.177, saving=0.0123)])
    assert ", MFU 42 %, data wait 0.2 %, communication 18 %, saving 1.2 %, ETA" in capfd.readouterr().err


def test_skipped_steps_and_lost_trackers_are_reported_once(tracker, capfd):
    printer = ProgressPrinter("train", tracker, [line(10, skipped=2, bad={"3": "nan"})])
    printed = line(20, skipped=7, bad={"12": "nan", "13": "93"}, limit="8", notes=["MLflow failed"])
    for _ in range(2):
        printer.show([line(10, skipped=2, bad={"3": "nan"}), printed])
    assert capfd.readouterr().err.splitlines()[:4] == [
        "train: step 12 was skipped, its gradient norm is nan",
        "train: step 13 was skipped, its gradient norm is 93, above 8",
        "train: 3 more steps were skipped up to step 20",
        "train: MLflow failed",
    ]


def test_a_note_that_arrives_at_the_end_is_printed_although_its_line_was_shown(tracker, capfd):
    printer = ProgressPrinter("train", tracker, [line(10, notes=["of the run before"])])
    printer.show([line(10, notes=["of the run before"]), line(20, notes=["early"])])
    for _ in range(2):
        printer.show([line(10, notes=["of the run before"]), line(20, notes=["early", "late"])])
    printed = [text for text in capfd.readouterr().err.splitlines() if "steps" not in text]
    assert printed == ["train: early", "train: late"]


def test_a_group_that_starts_again_from_a_checkpoint_sets_the_count_back(tracker):
    printer = ProgressPrinter("train", tracker, [])
    printer.show([line(10), line(20), line(30)])
    printer.show([line(10), line(20)])
    assert tracker.done == 20
    printer.show([line(10), line(20), line(40)])
    assert tracker.done == 40


def test_the_closing_table_answers_what_people_ask_first():
    rows = summary_rows({
        "steps": 500, "num_parameters": 1000, "num_weights": 5000, "images_per_s": 80.0, "step_s": 0.2,
        "data_wait": 0.003, "loss_first": 1.0, "loss_last": 0.1, "skipped": 1, "peak_memory_mb": [800, 790],
        "validation_loss_first": 0.9, "validation_loss_last": 0.2, "validation_loss_best": 0.15,
        "validation_loss_best_step": 400, "time_s": 3725.0, "psnr_db": 30.0, "checkpoint": "data/checkpoints/x",
    })  # fmt: skip
    assert rows == {
        "steps": 500, "images/s": 80.0, "step time": "200 ms, 0.3 % of it waiting for data",
        "loss": "1.0000 -> 0.1000", "validation loss": "0.9000 -> 0.2000, best 0.1500 at step 400", "skipped steps": 1,
        "parameters": "1,000 trained of 5,000", "memory per rank": "800 / 790 MB", "training time": "1:02:05",
        "psnr_db": 30.0, "checkpoint": "data/checkpoints/x",
    }  # fmt: skip
    assert list(rows)[-1] == "checkpoint"
    assert summary_rows({"steps": "already trained to step 5"}) == {"steps": "already trained to step 5"}


@pytest.mark.parametrize(
    ("seconds", "text"), [(12, "12 s"), (185, "3:05"), (7385, "2:03:05"), (3 * 86400 + 4 * 3600 + 300, "3 d 04:05")]
)
def test_durations_are_for_people(seconds, text):
    assert format_duration(seconds) == text
