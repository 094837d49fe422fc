"""A group of Ray Train workers that train as one: start, watch, start again, and say what went wrong.

1. claim (driver): a fresh owner token, so that a group left over from a dead driver cannot publish
2. work (every worker): `fit` resumes from the newest checkpoint in the store; Ray's own checkpoints are not used
3. lost worker: Ray starts the group again, up to `train.max_failures` times, elastic ones with as many as there are
4. node to be taken away: the group saves at the notice and shortly before the end; then Ray starts it again
5. errors for the user travel as values, since raising one would make Ray try again
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from emoji_ldm import errors
from emoji_ldm.config import Config
from emoji_ldm.dataset import checkpoints
from emoji_ldm.errors import EmojiLdmError, JobError, ModelError, StoreError
from emoji_ldm.progress import print_status
from emoji_ldm.store import Store
from emoji_ldm.train import preflight, resume, run_fencing
from emoji_ldm.train.preflight import check_training
from emoji_ldm.train.run_fencing import clear_fatal_error, error_kind, read_fatal_error, record_fatal_error
from emoji_ldm.train.tasks import sampler
from emoji_ldm.train.training_args import RunContext, TrainingArgs, TrainingTask, build_training_args
from ray_jobs.execution import ray_runtime
from ray_jobs.execution.preemption import PreemptionNotice
from ray_jobs.execution.train_progress import show_progress, summary_rows

NUM_CPUS = 0.5  # logical CPUs per worker; its torch threads are set below
START_TIMEOUT_S = 600  # a node may have to pull its image first
ELASTIC_TIMEOUT_S = 10  # elastic groups start on nodes that are there; Ray sees up to 20 s late that one has gone
ABORT_S = 20

# glibc gives large blocks back to the kernel at once and faults them in again at the next step: 12 % of a CPU step.
MALLOC_SETTINGS = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**30)}

TaskLoader = Callable[[RunContext], TrainingTask]
Summary = dict[str, object]

# Read by Ray's controller, whose default is to look after its workers every two seconds.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
START_TIMEOUT_VARIABLE, PREEMPTION_VARIABLE = (
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER",
)
USER_SETTINGS = {
    name: os.environ[name] for name in (START_TIMEOUT_VARIABLE, PREEMPTION_VARIABLE) if name in os.environ
}  # by the user


def train(config: Config, section: str, load: TaskLoader) -> Summary:
    """Train section `train` or `autoencoder` to its last step; returns at once if a checkpoint has it.

    Raises:
        ConfigError: The batch cannot be shared by the workers.
        ModelError: The run's checkpoint is of another network or objective, or gone.
        JobError: The cluster lacks resources, workers were lost too often, or the loss is not finite.
    """
    store, plan, settings = (
        Store(config.store, config.branch),
        build_training_args(config, section),
        getattr(config, section),
    )
    if done := _finished(store, config, plan):
        return done
    fewest = getattr(settings, "min_workers", 0) or settings.num_workers
    sampler.check_worker_range(fewest, settings.num_workers, plan.batch_size, plan.micro_batch_size, section=section)
    resume.check_resumable(store, config, plan)
    for warning in check_training(config, plan, store, settings.num_workers):
        print_status(warning)
    ray_runtime.connect(config.ray)
    ray_runtime.wait_for_resources(config.ray, section, fewest, num_cpus=NUM_CPUS, num_gpus=settings.gpus_per_worker)
    # The watcher is one more process, of no use where there is no other node to go on with.
    timeout_s = START_TIMEOUT_S if fewest == settings.num_workers else ELASTIC_TIMEOUT_S
    os.environ |= {
        PREEMPTION_VARIABLE: str(int(ray_runtime.can_autoscale())),
        START_TIMEOUT_VARIABLE: str(timeout_s),
    } | USER_SETTINGS
    token = run_fencing.claim_run(store, config.run, section)
    try:
        with show_progress(store, config, plan):
            return summary_rows(_fit(config, section, load, token))
    finally:
        clear_fatal_error(store, config.run, section, token)


def _finished(store: Store, config: Config, plan: TrainingArgs) -> Summary | None:
    found = checkpoints.complete_checkpoints(store, config.run, plan.kind)
    if not found or found[-1].step < plan.steps:
        return None
    try:
        manifest = found[-1].check()
    except ModelError:
        return None  # workers go on from the one before, and say so
    resume.refuse_mismatch(found[-1], manifest, config, plan)
    theirs, ours = (facts.get("latents", {}) for facts in (manifest.get("config", {}), config.model_dump(mode="json")))
    if plan.section == "train" and any(theirs.get(name) != ours[name] for name in ("vae", "text_encoder")):
        return None  # the same weights by another name, or others: workers look into them
    return {"steps": f"already trained to step {found[-1].step}", "checkpoint": found[-1].uri}


def _fit(config: Config, section: str, load: TaskLoader, token: str) -> Summary:
    settings, store = getattr(config, section), Store(config.store, config.branch)
    fewest, most = getattr(settings, "min_workers", 0) or settings.num_workers, settings.num_workers
    resources = {"CPU": NUM_CPUS} | ({"GPU": settings.gpus_per_worker} if settings.gpus_per_worker else {})
    # Ray keeps its own state of the group below the store, which every node reaches; nothing is read from it later.
    name = f"ray-{uuid.uuid4().hex[:8]}"
    trainer = _GroupTrainer(
        _work,
        train_loop_config={"config": config, "store": store, "section": section, "load": load, "token": token},
        scaling_config=ScalingConfig(num_workers=(fewest, most) if fewest < most else most,
                                     use_gpu=settings.gpus_per_worker > 0, resources_per_worker=resources),
        run_config=RunConfig(
            name=name, storage_path=store.path("runs", config.run, section), storage_filesystem=store.filesystem,
            failure_config=FailureConfig(max_failures=config.train.max_failures,
                                         max_preemption_failures=-1 if config.train.max_preemptions is None else config.train.max_preemptions),
            worker_runtime_env={"env_vars": MALLOC_SETTINGS},
        ),
    )  # fmt: skip
    try:
        outcome = trainer.fit().return_value
    except KeyboardInterrupt:
        trainer.abort()
        raise
    except ray.train.TrainingFailedError as error:
        raise _explain(error, config, section) from None
    finally:
        store.delete("runs", config.run, section, name)
    if "error" in outcome:
        kind, text = outcome["error"]
        raise getattr(errors, kind)(text)
    return dict(outcome)


class _GroupTrainer(TorchTrainer):  # type: ignore[misc]
    """Ray's trainer without two things.

    Ctrl-C is left to Python: Ray's own handler would end this process with status 1, also when training is over.
    Processes that would have nothing to do are not started: one for Ray data sets, which our workers do not use, and
    one that tidies up after a dead controller, where all of Ray ends with this process.
    """

    _controller: Any = None

    def _create_default_callbacks(self) -> list[Any]:
        idle = (DatasetsCallback,) if ray_runtime.can_autoscale() else (DatasetsCallback, PlacementGroupCleanerCallback)
        return [one for one in super()._create_default_callbacks() if not isinstance(one, idle)]

    def _register_sigint_handler(self, controller: Any) -> None:
        self._controller = controller

    def abort(self) -> None:
        """End the workers now, wherever they run, rather than when the cluster misses this process."""
        if self._controller:
            with suppress(ray.exceptions.RayError):
                ray.get(self._controller.abort.remote(), timeout=ABORT_S)


def _work(loop: dict[str, Any]) -> dict[str, Any]:
    """What every worker does; rank 0's value is the group's."""
    import torch

    from emoji_ldm.train.engines import distributed as ranks
    from emoji_ldm.train.loop import fit

    config, section = loop["config"], loop["section"]
    context = ray.train.get_context()
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(max(1, cores // context.get_local_world_size()))
    device = ray.train.torch.get_device() if getattr(config, section).gpus_per_worker else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)  # collectives of objects use the current one
    world = ranks.current_context(device)
    notice = {"leaving": PreemptionNotice()} if os.environ.get(PREEMPTION_VARIABLE) == "1" else {}
    with tempfile.TemporaryDirectory(prefix="emoji-ldm-") as scratch:
        place = RunContext(config, loop["store"], Path(scratch), loop["token"], **notice)
        plan, run = build_training_args(config, section), (loop["store"], config.run, section, loop["token"])
        try:
            if ended := read_fatal_error(*run):
                return {"error": ended}
            with preflight.explain_exhaustion(plan):
                return fit(world.agree(lambda: loop["load"](place)), plan, place, device)
        except StoreError:
            raise  # may pass: Ray tries again
        except EmojiLdmError as error:
            if world.size > 1 and not error.everywhere:  # other ranks wait for this one: end them too, for good
                record_fatal_error(*run, error)
                raise
            return {"error": [error_kind(error), str(error)]}


def _explain(failure: ray.train.TrainingFailedError, config: Config, section: str) -> EmojiLdmError:
    """The error as itself if it is one of ours, else the last line of what Ray collected."""
    for wrapped in getattr(failure, "worker_failures", {}).values():
        error = getattr(wrapped, "_base_exc", wrapped)
        if isinstance(error, EmojiLdmError):
            return error
    if isinstance(failure, ray.train.PreemptionError):
        return JobError(_taken_away(section, config.train.max_preemptions or 0))
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
    return JobError(
        f"{section} failed {config.train.max_failures + 1} times (train.max_failures={config.train.max_failures}): "
        f"{lines[-1] if lines else failure}; the last checkpoint stays, the same command goes on from it"
    )


def _taken_away(section: str, most: int) -> str:
    return (
        f"{section} lost its nodes {most + 1} times (train.max_preemptions={most}); "
        "the last checkpoint stays, the same command goes on from it"
    )
