"""The deployments of the service: what is refused before any starts, and how they scale."""

from __future__ import annotations

import asyncio

import pytest

from emoji_ldm.config import ServeConfig, build
from emoji_ldm.errors import ConfigError
from ray_jobs.serving import deployments
from ray_jobs.serving.deployments import Sets, checked_models, deployment_name


def config(tmp_path, **serve):
    return build({"run": "tiny", "store": str(tmp_path / "store"), "serve": serve}, where="test")


def test_fewer_replicas_than_the_least_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"serve\.min_replicas=3 is more than serve\.max_replicas=1"):
        checked_models(config(tmp_path, min_replicas=3, max_replicas=1))


def test_a_missing_file_of_keys_is_found_before_any_replica_starts(tmp_path, tiny_pipeline):
    with pytest.raises(ConfigError, match=r"serve\.keys=.*there is no such file"):
        checked_models(config(tmp_path, checkpoint=str(tiny_pipeline), keys=str(tmp_path / "keys.json")))


def test_a_model_that_may_scale_to_zero_starts_once_to_show_that_it_loads():
    assert deployments._autoscaling(ServeConfig(min_replicas=0)).initial_replicas == 1
    assert deployments._autoscaling(ServeConfig(min_replicas=2, max_replicas=4)).initial_replicas is None


def test_each_model_has_a_deployment_of_its_own():
    assert deployment_name("tiny") == "model-tiny"


def test_a_bulk_runner_whose_task_has_ended_is_not_healthy():
    async def fail():
        raise OSError("no store")

    async def check():
        sets = Sets.__new__(Sets)
        sets.run_task, sets.metrics_task = asyncio.create_task(fail()), asyncio.create_task(asyncio.sleep(60))
        sets.webhook_task = sets.metrics_task
        sets.check_health()
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match=r"the bulk runner has ended.*no store"):
            sets.check_health()
        sets.metrics_task.cancel()

    asyncio.run(check())
