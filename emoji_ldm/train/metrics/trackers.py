"""Where log lines and sample grids go: the store, TensorBoard, MLflow, Weights & Biases."""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from emoji_ldm.errors import ConfigError
from emoji_ldm.train.metrics.async_tracker import LogLines, MetricsTracker
from emoji_ldm.train.training_args import RunContext, TrainingArgs

TRACKER_PACKAGES = {"mlflow": "mlflow", "wandb": "wandb"}  # {field: module}
MAX_MLFLOW_PARAMS = 100  # MLflow takes 100 parameters and 1,000 metrics per request
MAX_PARAM_CHARS = 500  # characters of a parameter, in older MLflow servers


def check_trackers(plan: TrainingArgs) -> None:
    """Raise ConfigError if a tracker that the plan names is not installed, or MLflow cannot be reached now."""
    for field, module in TRACKER_PACKAGES.items():
        if getattr(plan, field) and importlib.util.find_spec(module) is None:
            raise ConfigError(f"{plan.section}.{field} needs the package {module}; run: pip install 'emoji-ldm[track]'")
    if plan.mlflow:
        _check_mlflow(plan)


def tracker_builders(place: RunContext, plan: TrainingArgs, lines: LogLines) -> dict[str, Callable[[], MetricsTracker]]:
    """{name: what makes the tracker}, which goes on after `lines`, those of the checkpoint."""
    found: dict[str, Callable[[], MetricsTracker]] = {"TensorBoard": lambda: TensorBoardTracker(place, plan, lines)}
    if plan.mlflow:
        found["MLflow"] = lambda: MlflowTracker(place, plan, lines)
    if plan.wandb:
        found["Weights & Biases"] = lambda: WandbTracker(place, plan, lines)
    return found


def scalar_metrics(line: Mapping[str, Any]) -> dict[str, float]:
    """What of a log line can be drawn over steps, memory as one curve per rank."""
    found = {name: float(value) for name, value in line.items() if isinstance(value, int | float) and name != "step"}
    return found | {f"memory_mb/rank-{rank}": float(value) for rank, value in enumerate(line.get("memory_mb", []))}


class JsonLinesTracker:
    """The log itself: a file of JSON lines in the store, which has no append: it is written again as a whole."""

    def __init__(self, place: RunContext, plan: TrainingArgs, name: str) -> None:
        self.store, self.parts, self.name = place.store, ("runs", place.config.run, plan.section), name
        self._text, self._count = "", 0  # of all lines but the last one, which may still get a note

    def send(self, lines: LogLines) -> None:
        """Write the file."""
        if not lines:
            return
        self._text += "".join(json.dumps(line) + "\n" for line in lines[self._count : -1])
        self._count = len(lines) - 1
        self.store.write((self._text + json.dumps(lines[-1]) + "\n").encode(), *self.parts, self.name)

    def picture(self, png: bytes, step: int, kind: str = "samples") -> None:
        """Write it beside the log."""
        self.store.write(png, *self.parts, kind, f"step-{step:08d}.png")

    def close(self, *, done: bool) -> None:
        """Nothing is open."""


class TensorBoardTracker:
    """TensorBoard's event files, in `runs/<run>/tensorboard` of the store."""

    def __init__(self, place: RunContext, plan: TrainingArgs, lines: LogLines) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.place, self.section, self.last = place, plan.section, _last_step(lines)
        self.folder = _folder(place, "tensorboard")
        self._writer: Any = SummaryWriter(str(self.folder), purge_step=self.last + 1 if lines else None)

    def send(self, lines: LogLines) -> None:
        """Add the new ones."""
        for line in _lines_after(lines, self.last):
            self.last = int(line["step"])
            for name, value in scalar_metrics(line).items():
                self._writer.add_scalar(f"{self.section}/{name}", value, self.last)
        self._writer.flush()
        _upload_files(self.place, self.folder, "tensorboard")

    def picture(self, png: bytes, step: int, kind: str = "samples") -> None:
        """Show it under images."""
        import numpy as np
        from PIL import Image

        with Image.open(BytesIO(png)) as image:
            self._writer.add_image(f"{self.section}/{kind}", np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self, *, done: bool) -> None:
        """Let go of the file."""
        self._writer.close()
        _upload_files(self.place, self.folder, "tensorboard")


class MlflowTracker:
    """One MLflow run per training, found again after a resume; the tracking server keeps what it has."""

    def __init__(self, place: RunContext, plan: TrainingArgs, lines: LogLines) -> None:
        self.place, self.plan = place, plan
        self.client: Any = _client(plan.mlflow)
        self.run_id, self.last = self._go_on(lines) or self._begin()

    def send(self, lines: LogLines) -> None:
        """Add the lines that the server lacks, also earlier ones."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        for line in _lines_after(lines, self.last):
            step = int(line["step"])
            metrics = [
                Metric(name, value, now_ms, step) for name, value in scalar_metrics({**line, "last_step": step}).items()
            ]
            self.client.log_batch(self.run_id, metrics=metrics)
            self.last = step

    def picture(self, png: bytes, step: int, kind: str = "samples") -> None:
        """Keep it as an artifact."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"step-{step:08d}.png")
            path.write_bytes(png)
            self.client.log_artifact(self.run_id, str(path), kind)

    def close(self, *, done: bool) -> None:
        """Mark the run as over."""
        self.client.set_terminated(self.run_id, "FINISHED" if done else "FAILED")

    def _go_on(self, lines: LogLines) -> tuple[str, int] | None:
        """The run of the training that `lines` come from, and the last step that it has."""
        from mlflow.exceptions import MlflowException

        run_id = _load_run_id(self.place, self.plan, "mlflow") if lines else ""
        if not run_id:
            return None
        try:
            run = self.client.get_run(run_id)
            self.client.update_run(run_id, status="RUNNING")
        except MlflowException:  # deleted, or of another server
            return None
        return run_id, int(run.data.metrics.get("last_step", 0))

    def _begin(self) -> tuple[str, int]:
        from mlflow.entities import Param

        config, name = self.place.config, os.environ.get("MLFLOW_EXPERIMENT_NAME", "emoji-ldm")
        found = self.client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self.client.create_experiment(name)
        run_id = self.client.create_run(experiment, run_name=_run_title(self.place, self.plan)).info.run_id
        params = [Param(key, value[:MAX_PARAM_CHARS]) for key, value in flatten_config(config.model_dump(mode="json"))]
        for start in range(0, len(params), MAX_MLFLOW_PARAMS):
            self.client.log_batch(run_id, params=params[start : start + MAX_MLFLOW_PARAMS])
        _save_run_id(self.place, self.plan, "mlflow", run_id)
        return run_id, 0


class WandbTracker:
    """One W&B run per training; with WANDB_MODE=offline its files lie in `runs/<run>/wandb` of the store."""

    def __init__(self, place: RunContext, plan: TrainingArgs, lines: LogLines) -> None:
        import wandb

        known = _load_run_id(place, plan, "wandb") if lines else ""
        self.folder, self.place = _folder(place, "wandb"), place
        self.folder.mkdir(parents=True, exist_ok=True)
        self._wandb: Any = wandb
        self._run: Any = wandb.init(
            project=plan.wandb, id=known or uuid.uuid4().hex[:12], resume="allow", name=_run_title(place, plan),
            dir=str(self.folder), config=dict(flatten_config(place.config.model_dump(mode="json"))),
            settings=wandb.Settings(silent=True, console="off"),
        )  # fmt: skip
        _save_run_id(place, plan, "wandb", str(self._run.id))
        self.last = max(_last_step(lines), int(self._run.starting_step) - 1)

    def send(self, lines: LogLines) -> None:
        """Add the new ones."""
        for line in _lines_after(lines, self.last):
            self.last = int(line["step"])
            self._run.log(scalar_metrics(line), step=self.last)

    def picture(self, png: bytes, step: int, kind: str = "samples") -> None:
        """Show it at its step."""
        from PIL import Image

        with Image.open(BytesIO(png)) as image:
            self._run.log({kind: self._wandb.Image(image.convert("RGB"))}, step=max(step, self.last))

    def close(self, *, done: bool) -> None:
        """End the run, which brings what is under way."""
        self._run.finish(exit_code=int(not done))
        _upload_files(self.place, self.folder, "wandb")


def flatten_config(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, text) of every value of a configuration."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten_config(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)


def _check_mlflow(plan: TrainingArgs) -> None:
    import requests
    from mlflow.exceptions import MlflowException

    try:
        _client(plan.mlflow).search_experiments(max_results=1)
    except (MlflowException, requests.RequestException, OSError) as error:
        text = " ".join(str(error).split())[:200]
        raise ConfigError(f"{plan.section}.mlflow={plan.mlflow} cannot be used: {text}") from None


def _client(uri: str) -> Any:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    from mlflow import MlflowClient

    return MlflowClient(uri)


def _run_title(place: RunContext, plan: TrainingArgs) -> str:
    return place.config.run if plan.section == "train" else f"{place.config.run} {plan.section}"


def _last_step(lines: LogLines) -> int:
    return int(lines[-1]["step"]) if lines else 0


def _lines_after(lines: LogLines, step: int) -> Iterator[Mapping[str, Any]]:
    return (line for line in lines if line["step"] > step)


def _load_run_id(place: RunContext, plan: TrainingArgs, tracker: str) -> str:
    """The id of the training's run in a tracker."""
    parts = ("runs", place.config.run, plan.section, f"{tracker}-run")
    return place.store.read(*parts).decode() if place.store.exists(*parts) else ""


def _save_run_id(place: RunContext, plan: TrainingArgs, tracker: str, run_id: str) -> None:
    place.store.write(run_id.encode(), "runs", place.config.run, plan.section, f"{tracker}-run")


def _folder(place: RunContext, name: str) -> Path:
    """Where a tracker writes files: in a local store itself, else in a scratch folder that is copied."""
    root = place.scratch if place.store.is_s3 else Path(place.store.root)
    return root / "runs" / place.config.run / name


def _upload_files(place: RunContext, folder: Path, name: str) -> None:
    if place.store.is_s3:
        place.store.upload(folder, "runs", place.config.run, name)
