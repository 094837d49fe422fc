"""Figures of stages and of training for Prometheus."""

from types import SimpleNamespace

from ray_jobs.execution import job_metrics


def heard(figures, attribute):
    """What is told to each of Ray's metrics, instead of to Ray."""
    told = []
    for name in getattr(figures, attribute):
        getattr(figures, attribute)[name] = SimpleNamespace(
            inc=lambda value, tags, name=name: told.append((name, value, tags.get("outcome"))),
            set=lambda value, tags, name=name: told.append((name, value)),
        )
    return told


def test_a_stage_counts_its_items_and_what_became_of_its_rows():
    stage = job_metrics.StageMetrics("crawl", "images", 0)
    told = heard(stage, "_counters")
    stage.done(3, {"kept": 2, "dead": 1, "failed": 0})
    stage.done(0, {})
    assert told == [("done", 3, None), ("rows", 2, "kept"), ("rows", 1, "dead")]


def test_a_training_tells_the_newest_of_each_figure_again_and_again():
    training = job_metrics.TrainingMetrics("train", "emoji", 100, lambda: "")
    told = heard(training, "_gauges")
    lines = [{"step": 10, "loss": 0.5, "validation_loss": 0.6}, {"step": 20, "skipped": 1, "notes": ["x"]}]
    training.update(lines)
    first = dict(told)
    assert first.pop("checkpoint_time_seconds") > 1e9
    assert first == {"steps": 100.0, "step": 20.0, "loss": 0.5, "validation_loss": 0.6, "skipped_steps": 1.0}
    told.clear()
    training.update([])  # a gauge that is not set is forgotten
    assert first.items() <= dict(told).items()


def test_the_age_of_a_checkpoint_begins_again_with_a_new_one_and_not_when_the_store_is_away(monkeypatch):
    names = iter(["a", None, "a", "b"])
    monkeypatch.setattr(job_metrics, "LOOK_S", -1.0)
    training = job_metrics.TrainingMetrics("train", "emoji", 100, lambda: next(names))
    told = heard(training, "_gauges")
    ages = []
    for _ in range(3):
        training._now["checkpoint_time_seconds"] = min(training._now["checkpoint_time_seconds"], 7.0)
        training.update([])
        ages.append(dict(told)["checkpoint_time_seconds"] > 7.0)
    assert ages == [False, False, True]
