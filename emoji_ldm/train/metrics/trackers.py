"""Destinations of log lines and sample grids: the store, TensorBoard, MLflow, Weights & Biases."""

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
# MLflow takes 100 parameters and 1,000 metrics per request. Older servers take 500 characters per parameter.
MAX_MLFLOW_PARAMS = 100
MAX_PARAM_CHARS = 500


def check_trackers(args: TrainingArgs) -> None:
    """Raise ConfigError if a configured tracker is not installed, or MLflow cannot be reached now."""
    for field, module in TRACKER_PACKAGES.items():
        if getattr(args, field) and importlib.util.find_spec(module) is None:
            raise ConfigError(f"{args.section}.{field} needs the package {module}; run: pip install 'emoji-ldm[track]'")
    if args.mlflow:
        _check_mlflow(args)


def tracker_builders(
    context: RunContext, args: TrainingArgs, lines: LogLines
) -> dict[str, Callable[[], MetricsTracker]]:
    """`{name: function that builds the tracker}`; each continues after `lines`, those of the checkpoint."""
    # The values are functions and not trackers: building a tracker loads packages and connects, which its own thread
    # does.
    found: dict[str, Callable[[], MetricsTracker]] = {"TensorBoard": lambda: TensorBoardTracker(context, args, lines)}
    if args.mlflow:
        found["MLflow"] = lambda: MlflowTracker(context, args, lines)
    if args.wandb:
        found["Weights & Biases"] = lambda: WandbTracker(context, args, lines)
    return found


def scalar_metrics(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a log line that can be plotted over steps, memory as one curve per rank."""
    found = {name: float(value) for name, value in line.items() if isinstance(value, int | float) and name != "step"}
    return found | {f"memory_mb/rank-{rank}": float(value) for rank, value in enumerate(line.get("memory_mb", []))}


class JsonLinesTracker:
    """The run's log: a file of JSON lines, written as a whole each time, as an object store cannot append."""

    def __init__(self, context: RunContext, args: TrainingArgs, name: str) -> None:
        self.store, self.parts, self.name = context.store, ("runs", context.config.run, args.section), name
        # Text and number of all lines but the last, which may still get a note.
        self._text, self._count = "", 0

    def log_lines(self, lines: LogLines) -> None:
        """Write the file."""
        if not lines:
            return
        # Only the new lines are turned into text. The last one is turned again each time, as it may have got a note.
        self._text += "".join(json.dumps(line) + "\n" for line in lines[self._count : -1])
        self._count = len(lines) - 1
        self.store.write((self._text + json.dumps(lines[-1]) + "\n").encode(), *self.parts, self.name)

    def log_image(self, png: bytes, step: int, kind: str = "samples") -> None:
        """Write the image beside the log."""
        self.store.write(png, *self.parts, kind, f"step-{step:08d}.png")

    def close(self, *, done: bool) -> None:
        """Do nothing: no file is open."""


class TensorBoardTracker:
    """TensorBoard's event files, in `runs/<run>/tensorboard` of the store."""

    def __init__(self, context: RunContext, args: TrainingArgs, lines: LogLines) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.context, self.section, self.last = context, args.section, _last_step(lines)
        self.folder = _folder(context, "tensorboard")
        # An interrupted training may have logged steps after its checkpoint. TensorBoard hides those from `purge_step`
        # on.
        self._writer: Any = SummaryWriter(str(self.folder), purge_step=self.last + 1 if lines else None)

    def log_lines(self, lines: LogLines) -> None:
        """Add the new lines."""
        for line in _lines_after(lines, self.last):
            self.last = int(line["step"])
            for name, value in scalar_metrics(line).items():
                self._writer.add_scalar(f"{self.section}/{name}", value, self.last)
        self._writer.flush()
        _upload_files(self.context, self.folder, "tensorboard")

    def log_image(self, png: bytes, step: int, kind: str = "samples") -> None:
        """Show the image at its step."""
        import numpy as np
        from PIL import Image

        with Image.open(BytesIO(png)) as image:
            self._writer.add_image(f"{self.section}/{kind}", np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self, *, done: bool) -> None:
        """Close the file and upload it."""
        self._writer.close()
        _upload_files(self.context, self.folder, "tensorboard")


class MlflowTracker:
    """One MLflow run per training, which a resumed training continues; logged lines stay as they are."""

    def __init__(self, context: RunContext, args: TrainingArgs, lines: LogLines) -> None:
        self.context, self.args = context, args
        self.client: Any = _client(args.mlflow or "")
        self.run_id, self.last = self._continue_run(lines) or self._create_run()

    def log_lines(self, lines: LogLines) -> None:
        """Add the lines that the server lacks, earlier ones included."""
        from mlflow.entities import Metric

        # MLflow cannot take a metric back. `last_step` tells a resumed training which steps the server has already, so
        # that none is logged twice.
        now_ms = int(time.time() * 1000)
        for line in _lines_after(lines, self.last):
            step = int(line["step"])
            metrics = [
                Metric(name, value, now_ms, step) for name, value in scalar_metrics({**line, "last_step": step}).items()
            ]
            self.client.log_batch(self.run_id, metrics=metrics)
            self.last = step

    def log_image(self, png: bytes, step: int, kind: str = "samples") -> None:
        """Store the image as an artifact."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"step-{step:08d}.png")
            path.write_bytes(png)
            self.client.log_artifact(self.run_id, str(path), kind)

    def close(self, *, done: bool) -> None:
        """Mark the run as finished or failed."""
        self.client.set_terminated(self.run_id, "FINISHED" if done else "FAILED")

    def _continue_run(self, lines: LogLines) -> tuple[str, int] | None:
        """The MLflow run that `lines` were logged to, and its last step."""
        from mlflow.exceptions import MlflowException

        run_id = _load_run_id(self.context, self.args, "mlflow") if lines else ""
        if not run_id:
            return None
        try:
            # A lost tracker run is no reason to fail: a new one gets all lines from the beginning.
            run = self.client.get_run(run_id)
            self.client.update_run(run_id, status="RUNNING")
        except MlflowException:  # deleted, or of another server
            return None
        return run_id, int(run.data.metrics.get("last_step", 0))

    def _create_run(self) -> tuple[str, int]:
        from mlflow.entities import Param

        config, name = self.context.config, os.environ.get("MLFLOW_EXPERIMENT_NAME", "emoji-ldm")
        found = self.client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self.client.create_experiment(name)
        run_id = self.client.create_run(experiment, run_name=_run_title(self.context, self.args)).info.run_id
        params = [Param(key, value[:MAX_PARAM_CHARS]) for key, value in flatten_config(config.model_dump(mode="json"))]
        for start in range(0, len(params), MAX_MLFLOW_PARAMS):
            self.client.log_batch(run_id, params=params[start : start + MAX_MLFLOW_PARAMS])
        # The id is saved after the parameters, so that a run that is continued has them.
        _save_run_id(self.context, self.args, "mlflow", run_id)
        return run_id, 0


class WandbTracker:
    """One W&B run per training; with WANDB_MODE=offline its files are in `runs/<run>/wandb` of the store."""

    def __init__(self, context: RunContext, args: TrainingArgs, lines: LogLines) -> None:
        import wandb

        known = _load_run_id(context, args, "wandb") if lines else ""
        self.folder, self.context = _folder(context, "wandb"), context
        self.folder.mkdir(parents=True, exist_ok=True)
        self._wandb: Any = wandb
        # `resume="allow"` continues the run of that id, or creates it.
        self._run: Any = wandb.init(
            project=args.wandb, id=known or uuid.uuid4().hex[:12], resume="allow", name=_run_title(context, args),
            dir=str(self.folder), config=dict(flatten_config(context.config.model_dump(mode="json"))),
            settings=wandb.Settings(silent=True, console="off"),
        )  # fmt: skip
        _save_run_id(context, args, "wandb", str(self._run.id))
        # W&B refuses steps below its last one. It may be ahead of the checkpoint if the training was interrupted in
        # between.
        self.last = max(_last_step(lines), int(self._run.starting_step) - 1)

    def log_lines(self, lines: LogLines) -> None:
        """Add the new lines."""
        for line in _lines_after(lines, self.last):
            self.last = int(line["step"])
            self._run.log(scalar_metrics(line), step=self.last)

    def log_image(self, png: bytes, step: int, kind: str = "samples") -> None:
        """Log the image at its step."""
        from PIL import Image

        with Image.open(BytesIO(png)) as image:
            # A grid is drawn while training goes on, so its own step may have passed.
            self._run.log({kind: self._wandb.Image(image.convert("RGB"))}, step=max(step, self.last))

    def close(self, *, done: bool) -> None:
        """End the run, which waits for its uploads."""
        self._run.finish(exit_code=int(not done))
        _upload_files(self.context, self.folder, "wandb")


def flatten_config(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, text) of every value of a configuration."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten_config(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)


def _check_mlflow(args: TrainingArgs) -> None:
    import requests
    from mlflow.exceptions import MlflowException

    try:
        _client(args.mlflow or "").search_experiments(max_results=1)
    except (MlflowException, requests.RequestException, OSError) as error:
        text = " ".join(str(error).split())[:200]
        raise ConfigError(f"{args.section}.mlflow={args.mlflow} cannot be used: {text}") from None


def _client(uri: str) -> Any:
    # MLflow's defaults are 120 s and 7 retries: with those a check would hang for minutes if the server is down.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    from mlflow import MlflowClient

    return MlflowClient(uri)


def _run_title(context: RunContext, args: TrainingArgs) -> str:
    return context.config.run if args.section == "train" else f"{context.config.run} {args.section}"


def _last_step(lines: LogLines) -> int:
    return int(lines[-1]["step"]) if lines else 0


def _lines_after(lines: LogLines, step: int) -> Iterator[Mapping[str, Any]]:
    return (line for line in lines if line["step"] > step)


def _load_run_id(context: RunContext, args: TrainingArgs, tracker: str) -> str:
    """The id of the training's run in a tracker; empty without one."""
    parts = ("runs", context.config.run, args.section, f"{tracker}-run")
    return context.store.read(*parts).decode() if context.store.exists(*parts) else ""


def _save_run_id(context: RunContext, args: TrainingArgs, tracker: str, run_id: str) -> None:
    context.store.write(run_id.encode(), "runs", context.config.run, args.section, f"{tracker}-run")


def _folder(context: RunContext, name: str) -> Path:
    """Where a tracker writes files: into a local store directly, else into a scratch folder that is uploaded."""
    # TensorBoard and W&B write local files only.
    root = context.scratch_dir if context.store.is_s3 else Path(context.store.root)
    return root / "runs" / context.config.run / name


def _upload_files(context: RunContext, folder: Path, name: str) -> None:
    if context.store.is_s3:
        context.store.upload(folder, "runs", context.config.run, name)
