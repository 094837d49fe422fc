"""Trackers with their real stores: TensorBoard's files, MLflow's, and the offline files of W&B."""

from __future__ import annotations

import importlib.util
import io
import time

import pytest
from PIL import Image

from emoji_ldm.errors import ConfigError
from emoji_ldm.train.metrics import trackers
from emoji_ldm.train.training_args import build_training_args
from tests.unit.train import tiny


def lines(count):
    return [{"step": step, "loss": 1 / step, "memory_mb": [10, 20], "time_s": 1.0, "bad": {"1": "nan"}}
            for step in range(1, count + 1)]  # fmt: skip


def png():
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    return buffer.getvalue()


def feed(build, run_context, training_args, before, after):
    """What a training does that goes on after `before` lines and ends after `after`."""
    tracker = build(run_context, training_args, lines(before))
    tracker.log_lines(lines(after - 1))
    tracker.log_image(png(), after - 1)
    tracker.log_lines(lines(after))
    tracker.close(done=True)
    return tracker


@pytest.mark.slow
def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_context, training_args = tiny.run_context(tiny.config(), tmp_path), build_training_args(tiny.config(), "train")
    feed(
        trackers.TensorBoardTracker, run_context, training_args, 0, 5
    )  # killed here; its last checkpoint was made at step 3
    time.sleep(1.1)  # event files sort by the second in their names, then by a number as text (10 before 9)
    feed(trackers.TensorBoardTracker, run_context, training_args, 3, 7)
    board = EventAccumulator(str(tmp_path / "store" / "runs" / "tiny" / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6, 7]
    assert [event.value for event in board.Scalars("train/memory_mb/rank-1")] == [20.0] * 7
    assert board.Images("train/samples")


@pytest.mark.slow
def test_a_resume_continues_the_mlflow_run_without_duplicate_points(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    uri = (tmp_path / "mlflow").as_uri()
    config = tiny.config(f"train.mlflow={uri}")
    run_context, training_args = tiny.run_context(config, tmp_path), build_training_args(config, "train")
    trackers.check_trackers(training_args)
    first = feed(trackers.MlflowTracker, run_context, training_args, 0, 5)
    second = feed(trackers.MlflowTracker, run_context, training_args, 3, 7)
    assert first.run_id == second.run_id
    client = MlflowClient(uri)
    run = client.get_run(first.run_id)
    assert [metric.step for metric in client.get_metric_history(first.run_id, "loss")] == [1, 2, 3, 4, 5, 6, 7]
    assert run.info.run_name == "tiny" and run.info.status == "FINISHED"
    assert run.data.params["train.batch_size"] == "4" and run.data.params["run"] == "tiny"
    assert [item.path for item in client.list_artifacts(first.run_id, "samples")] == [
        "samples/step-00000004.png", "samples/step-00000006.png"]  # fmt: skip
    assert (
        feed(trackers.MlflowTracker, run_context, training_args, 0, 2).run_id != first.run_id
    )  # from the start again: another training


@pytest.mark.slow
def test_an_unreachable_tracking_server_is_reported_before_work_starts(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    config = tiny.config("train.mlflow=http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"train.mlflow=http://127.0.0.1:9 cannot be used"):
        trackers.check_trackers(build_training_args(config, "train"))


@pytest.mark.parametrize(("field", "package"), [("mlflow", "mlflow"), ("wandb", "wandb")])
def test_a_missing_tracker_package_is_reported_before_work_starts(field, package, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"train.{field} needs the package {package}; run: pip install 'emoji-ldm"):
        trackers.check_trackers(build_training_args(tiny.config(f"train.{field}=x"), "train"))


@pytest.mark.long
def test_wandb_works_without_a_network(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = tiny.config("train.wandb=emoji")
    run_context, training_args = tiny.run_context(config, tmp_path), build_training_args(config, "train")
    feed(trackers.WandbTracker, run_context, training_args, 0, 5)
    feed(trackers.WandbTracker, run_context, training_args, 3, 7)
    runs = list((tmp_path / "store" / "runs" / "tiny" / "wandb").rglob("*.wandb"))
    assert len(runs) == 2 and len({path.name for path in runs}) == 1  # two parts of one run, for `wandb sync`
