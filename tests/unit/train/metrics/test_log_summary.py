"""The summary of a log."""

from __future__ import annotations

from emoji_ldm.train.metrics.log_summary import summarize_log


def test_rates_of_the_summary_leave_the_warm_up_out():
    lines = [
        {"step": step, "loss": 1 / step, "images_per_s": rate, "step_s": 1 / rate, "data_wait": 0.0, "time_s": step}
        for step, rate in ((1, 1.0), (2, 50.0), (3, 60.0), (4, 70.0))
    ]
    lines[1]["validation_loss"], lines[3]["validation_loss"] = 0.3, 0.4
    found = summarize_log(lines)
    assert (found["images_per_s"], found["loss_first"], found["loss_last"]) == (60.0, 1.0, 0.25)
    assert (found["validation_loss_best"], found["validation_loss_best_step"]) == (0.3, 2)
    assert summarize_log([]) == {}
