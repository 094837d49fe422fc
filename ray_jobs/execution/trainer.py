"""A group of Ray Train workers that train one network: start, watch, restart, and report what went wrong.

1. claim (driver): a fresh owner token, so that a group left over from a dead driver can no longer publish
2. work (every worker): `fit` resumes from the newest checkpoint in the store; Ray's own checkpoints are not used
3. lost worker: Ray restarts the group, up to `max_failures` times; an elastic group takes the workers that there are
4. preempted node: the group saves at the notice and shortly before the deadline; then Ray restarts it elsewhere
5. errors for the user travel as return values, since Ray would retry after a raised one

Ray decides on the number of workers and restarts all of them together: the ranks of a collective operation cannot go
on without one another. Which step training continues at is decided by the store alone, not by Ray's state.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
from ray.train import FailureConfig, RunConfig, ScalingConfig

from emoji_ldm import errors
from emoji_ldm.config import AutoencoderConfig, Config, TrainConfig
from emoji_ldm.dataset import checkpoints
from emoji_ldm.errors import EmojiLdmError, JobError, ModelError, StoreError
from emoji_ldm.progress import print_status
from emoji_ldm.store import Store
from emoji_ldm.train import preflight, resume, run_fencing
from emoji_ldm.train.manifest import recorded_config, refuse_mismatch
from emoji_ldm.train.preflight import check_training
from emoji_ldm.train.run_fencing import clear_fatal_error, error_kind, read_fatal_error, record_fatal_error
from emoji_ldm.train.tasks import sampler
from emoji_ldm.train.training_args import RunContext, TrainingArgs, TrainingTask, build_training_args
from ray_jobs.execution import ray_runtime
from ray_jobs.execution.preemption import PreemptionNotice
from ray_jobs.execution.train_progress import show_progress, summary_rows
from ray_jobs.ray_compat import InterruptibleTrainer, user_exception

# Logical CPUs per worker, for Ray's scheduler only; the number of torch threads is set in `_device`.
NUM_CPUS = 0.5
# A new node may have to pull an image of several GB first.
START_TIMEOUT_S = 600
# An elastic group starts on the nodes that there are. Ray notices a lost node up to 20 s late: a start that counted on
# it shall fail soon, and be repeated with fewer workers.
ELASTIC_START_TIMEOUT_S = 10

# glibc returns large blocks to the kernel at once and faults them in again at the next step: 12 % of a CPU step.
MALLOC_SETTINGS = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
PREEMPTION_WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"

Section = TrainConfig | AutoencoderConfig
TaskLoader = Callable[[RunContext], TrainingTask]
Summary = dict[str, object]


def train(config: Config, section: str, load: TaskLoader) -> Summary:
    """Train section `train` or `autoencoder` to its last step; returns at once if a checkpoint has reached it.

    Raises:
        ConfigError: The batch cannot be divided among the workers.
        ModelError: The run's checkpoint is of another network or objective, or gone.
        JobError: The cluster lacks resources, workers were lost too often, or the loss is not finite.
    """
    store, plan = Store(config.store, config.branch), build_training_args(config, section)
    settings: Section = getattr(config, section)
    # Asked before Ray is started, so that a finished run returns in a second.
    if done := _finished(store, config, plan):
        return done
    fewest = settings.min_workers or settings.num_workers
    sampler.check_worker_range(fewest, settings.num_workers, plan.batch_size, plan.micro_batch_size, section=section)
    resume.check_resumable(store, config, plan)
    # Printed before the workers start: a warning in the middle of a progress bar is easily overlooked.
    for warning in check_training(config, plan, store, settings.num_workers):
        print_status(warning)
    ray_runtime.connect(config.ray)
    ray_runtime.wait_for_resources(config.ray, section, fewest, num_cpus=NUM_CPUS, num_gpus=settings.gpus_per_worker)
    # From here on, a group that an earlier driver left running can no longer publish: its token is outdated.
    token = run_fencing.claim_run(store, config.run, section)
    try:
        with show_progress(store, config, plan), ray_runtime.environment_defaults(_ray_train_settings(settings)):
            return summary_rows(_fit(config, section, load, token))
    finally:
        clear_fatal_error(store, config.run, section, token)


def _ray_train_settings(settings: Section) -> dict[str, str]:
    """Return the variables that Ray Train reads when `fit` is called, and hands on to controller and workers."""
    elastic = settings.min_workers is not None and settings.min_workers < settings.num_workers
    return {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",  # two seconds by default
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(ELASTIC_START_TIMEOUT_S if elastic else START_TIMEOUT_S),
        # The watcher is one more process, of no use where there is no other node to continue on.
        PREEMPTION_WATCHER: str(int(ray_runtime.can_autoscale())),
    }


def _finished(store: Store, config: Config, plan: TrainingArgs) -> Summary | None:
    """Return the summary of a run whose newest checkpoint has all steps; None if workers must look or train."""
    found = checkpoints.complete_checkpoints(store, config.run, plan.kind)
    if not found or found[-1].step < plan.steps:
        return None
    try:
        manifest = found[-1].check()
    except ModelError:
        return None  # it is damaged: workers continue from the one before it, and say so
    refuse_mismatch(found[-1], manifest, config, plan)
    theirs, ours = recorded_config(manifest).get("latents", {}), config.model_dump(mode="json")["latents"]
    if plan.section == "train" and any(theirs.get(name) != ours[name] for name in ("vae", "text_encoder")):
        return None  # other names may still mean the same weights: workers compare these
    return {"steps": f"already trained to step {found[-1].step}", "checkpoint": found[-1].uri}


def _fit(config: Config, section: str, load: TaskLoader, token: str) -> Summary:
    settings: Section = getattr(config, section)
    store = Store(config.store, config.branch)
    # Ray keeps its own state of the group below the store, which every node reaches; nothing is read from it later.
    name = f"ray-{uuid.uuid4().hex[:8]}"
    # Everything below is pickled: the workers import this module and call `_work` with the dictionary.
    trainer = InterruptibleTrainer(
        _work,
        train_loop_config={"config": config, "store": store, "section": section, "load": load, "token": token},
        scaling_config=_scaling(settings),
        run_config=RunConfig(
            name=name,
            storage_path=store.path("runs", config.run, section),
            storage_filesystem=store.filesystem,
            failure_config=FailureConfig(
                max_failures=settings.max_failures,
                # -1 means without a limit in Ray. A preempted node is no fault of the training, so it does not count as
                # a failure.
                max_preemption_failures=-1 if settings.max_preemptions is None else settings.max_preemptions,
            ),
            worker_runtime_env={"env_vars": MALLOC_SETTINGS},
        ),
    )
    try:
        # Blocks through all restarts; progress reaches the terminal through the store, see `show_progress`.
        outcome = trainer.fit().return_value
    except KeyboardInterrupt:
        trainer.abort()
        raise
    except ray.train.TrainingFailedError as error:
        raise _explain(error, settings, section) from None
    finally:
        store.delete("runs", config.run, section, name)
    # Point 5 of the module's docstring: an error for the user, by the name of its class.
    if "error" in outcome:
        kind, text = outcome["error"]
        raise getattr(errors, kind)(text)
    return dict(outcome)


def _scaling(settings: Section) -> ScalingConfig:
    fewest, most = settings.min_workers or settings.num_workers, settings.num_workers
    return ScalingConfig(
        num_workers=(fewest, most) if fewest < most else most,
        use_gpu=settings.gpus_per_worker > 0,
        resources_per_worker={"CPU": NUM_CPUS}
        | ({"GPU": settings.gpus_per_worker} if settings.gpus_per_worker else {}),
    )


def _work(loop: dict[str, Any]) -> dict[str, Any]:
    """Train on one worker until the last step; the group's value is that of rank 0."""
    from emoji_ldm.train.engines.distributed import current_context
    from emoji_ldm.train.loop import fit

    config, store, section, token = loop["config"], loop["store"], loop["section"], loop["token"]
    device = _device(getattr(config, section))
    ranks, args = current_context(device), build_training_args(config, section)
    # To ask for a notice is a barrier over all ranks: without a watcher there is nothing to ask for.
    notice = {"preemption_notice": PreemptionNotice()} if os.environ.get(PREEMPTION_WATCHER) == "1" else {}
    with tempfile.TemporaryDirectory(prefix="emoji-ldm-") as scratch:
        context = RunContext(config, store, Path(scratch), token, **notice)
        try:
            if recorded := read_fatal_error(store, config.run, section, token):
                # An earlier group of this run ended by an error that would occur again.
                return {"error": recorded}
            with preflight.explain_exhaustion(args):
                return fit(ranks.run_on_all(lambda: loop["load"](context)), args, context, device)
        except StoreError:
            # The store may be back in a minute. Raised, it makes Ray restart the group, within `max_failures`.
            raise
        except EmojiLdmError as error:
            if ranks.world_size > 1 and not error.raised_on_all_ranks:
                # The other ranks wait for this one in a collective operation. Raising ends them too; the record
                # lets the group that Ray starts next return this error instead of training.
                record_fatal_error(store, config.run, section, token, error)
                raise
            return {"error": [error_kind(error), str(error)]}


def _device(settings: Section) -> Any:
    """Return the worker's torch device; on CPUs the workers of a node share its cores evenly."""
    import torch

    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(max(1, cores // ray.train.get_context().get_local_world_size()))
    if not settings.gpus_per_worker:
        return torch.device("cpu")
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        # Collective operations on Python objects use the current device, which would be cuda:0 for every rank.
        torch.cuda.set_device(device)
    return device


def _explain(failure: ray.train.TrainingFailedError, settings: Section, section: str) -> EmojiLdmError:
    """Return one of our own errors as it was raised; of any other, the last line of what Ray collected."""
    # A rank that raised one of our errors explains the failure better than the others, which lost their peer.
    for wrapped in getattr(failure, "worker_failures", {}).values():
        error = user_exception(wrapped)
        if isinstance(error, EmojiLdmError):
            return error
    again = "the last checkpoint stays, the same command goes on from it"
    if isinstance(failure, ray.train.PreemptionError):
        most = settings.max_preemptions or 0
        return JobError(f"{section} lost its nodes {most + 1} times ({section}.max_preemptions={most}); {again}")
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
    return JobError(
        f"{section} failed {settings.max_failures + 1} times ({section}.max_failures={settings.max_failures}): "
        f"{lines[-1] if lines else failure}; {again}"
    )
