"""How a worker group is asked for, and how its failures are explained; tests/jobs/test_train.py trains with one."""

from __future__ import annotations

import pytest
from ray.train import TrainingFailedError, WorkerGroupError

from emoji_ldm.config import TrainConfig
from emoji_ldm.errors import JobError, ModelError
from ray_jobs.execution import ray_runtime, trainer


def test_a_group_has_a_fixed_size_unless_it_may_shrink():
    fixed, elastic = (
        trainer._scaling(TrainConfig(num_workers=4)),
        trainer._scaling(TrainConfig(num_workers=4, min_workers=2, gpus_per_worker=1)),
    )
    assert (fixed.num_workers, fixed.use_gpu) == (4, False) and "GPU" not in fixed.resources_per_worker
    assert (elastic.num_workers, elastic.use_gpu) == ((2, 4), True) and elastic.resources_per_worker["GPU"] == 1


@pytest.mark.parametrize(("fewest", "timeout_s"), [(None, 600), (4, 600), (2, 10)])
def test_only_an_elastic_group_gives_up_soon_on_nodes_that_are_missing(fewest, timeout_s):
    settings = trainer._ray_train_settings(TrainConfig(num_workers=4, min_workers=fewest))
    assert settings["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] == str(timeout_s)


@pytest.mark.parametrize("grows", [True, False])
def test_preemption_is_watched_only_where_there_is_another_node_to_go_on_with(grows, monkeypatch):
    monkeypatch.setattr(ray_runtime, "can_autoscale", lambda: grows)
    assert trainer._ray_train_settings(TrainConfig())[trainer.PREEMPTION_WATCHER] == str(int(grows))


def test_our_own_error_of_one_rank_explains_the_failure_of_all():
    ours = ModelError("the network has other channels")
    failure = WorkerGroupError("rank 0 lost its peer", {0: RuntimeError("Connection closed by peer"), 1: ours})
    assert trainer._explain(failure, TrainConfig(), "train") is ours


def test_any_other_failure_is_its_last_line_with_the_number_of_tries():
    failure = WorkerGroupError("Traceback:\n  File x\nRuntimeError: NCCL error\n\n", {0: RuntimeError("NCCL error")})
    error = trainer._explain(failure, TrainConfig(max_failures=2), "train")
    assert isinstance(error, JobError) and str(error) == (
        "train failed 3 times (train.max_failures=2): RuntimeError: NCCL error; "
        "the last checkpoint stays, the same command goes on from it"
    )


def test_a_failure_without_any_text_is_still_one_line():
    assert "train failed 1 times" in str(trainer._explain(TrainingFailedError(), TrainConfig(max_failures=0), "train"))
