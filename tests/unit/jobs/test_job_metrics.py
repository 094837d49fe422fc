"""Prometheus metrics of stages and of training."""

from types import SimpleNamespace

from ray_jobs.execution import job_metrics


def recorded(metrics, attribute):
    """The values that each of Ray's metrics gets, instead of Ray."""
    values = []
    for name in getattr(metrics, attribute):
        getattr(metrics, attribute)[name] = SimpleNamespace(
            inc=lambda value, tags, name=name: values.append((name, value, tags.get("outcome"))),
            set=lambda value, tags, name=name: values.append((name, value)),
        )
    return values


def test_a_stage_counts_its_items_and_its_rows_by_outcome():
    stage = job_metrics.StageMetrics("crawl", "images", 0)
    values = recorded(stage, "_counters")
    stage.shard_committed(3, {"kept": 2, "dead": 1, "failed": 0})
    stage.shard_committed(0, {})
    assert values == [("done", 3, None), ("rows", 2, "kept"), ("rows", 1, "dead")]


def test_the_newest_value_of_each_training_metric_is_set_again_and_again():
    training = job_metrics.TrainingMetrics("train", "emoji", 100, lambda: "")
    values = recorded(training, "_gauges")
    lines = [{"step": 10, "loss": 0.5, "validation_loss": 0.6}, {"step": 20, "skipped": 1, "notes": ["x"]}]
    training.update(lines)
    first = dict(values)
    assert first.pop("checkpoint_time_seconds") > 1e9
    assert first == {"steps": 100.0, "step": 20.0, "loss": 0.5, "validation_loss": 0.6, "skipped_steps": 1.0}
    values.clear()
    training.update([])  # a gauge that is not set is forgotten
    assert first.items() <= dict(values).items()


def test_the_age_of_a_checkpoint_starts_anew_with_a_new_one_but_not_when_the_store_does_not_answer(monkeypatch):
    names = iter(["a", None, "a", "b"])
    monkeypatch.setattr(job_metrics, "CHECKPOINT_POLL_S", -1.0)
    training = job_metrics.TrainingMetrics("train", "emoji", 100, lambda: next(names))
    values = recorded(training, "_gauges")
    ages = []
    for _ in range(3):
        training._values["checkpoint_time_seconds"] = min(training._values["checkpoint_time_seconds"], 7.0)
        training.update([])
        ages.append(dict(values)["checkpoint_time_seconds"] > 7.0)
    assert ages == [False, False, True]
