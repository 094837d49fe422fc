"""The private parts of Ray that are used, with the real library."""

import importlib
import inspect

import pytest
import ray.train
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer

import ray_jobs.ray_compat as compat
from emoji_ldm import library_compat


def test_another_version_of_ray_is_refused_loudly(monkeypatch):
    monkeypatch.setattr(library_compat, "version", lambda _: "2.61.0")
    with pytest.raises(ImportError, match=r"ray 2\.61\.0 is installed.*tested with 2\.60\.x only"):
        importlib.reload(compat)
    monkeypatch.undo()
    importlib.reload(compat)


def test_the_private_methods_that_are_overridden_exist():
    for name in ("_create_default_callbacks", "_register_sigint_handler"):
        ours, theirs = getattr(compat.InterruptibleTrainer, name), getattr(TorchTrainer, name)
        assert inspect.signature(ours).parameters.keys() == inspect.signature(theirs).parameters.keys()


def test_idle_callbacks_are_left_out_and_no_others():
    theirs = TorchTrainer(train_nothing, scaling_config=ScalingConfig(num_workers=1))._create_default_callbacks()
    ours = compat.InterruptibleTrainer(train_nothing, scaling_config=ScalingConfig(num_workers=1))
    left_out = {type(one).__name__ for one in theirs} - {type(one).__name__ for one in ours._create_default_callbacks()}
    assert left_out == {"DatasetsCallback", "PlacementGroupCleanerCallback"}


def train_nothing():
    return {"done": True}


def raise_our_own_error():
    raise KeyError("ours")


@pytest.mark.slow
def test_a_group_is_trained_and_its_controller_is_kept_for_an_abort():
    trainer = compat.InterruptibleTrainer(train_nothing, scaling_config=ScalingConfig(num_workers=1))
    assert trainer.fit().return_value == {"done": True}
    assert trainer._controller is not None


@pytest.mark.slow
def test_what_a_worker_raised_is_found_in_the_failure():
    trainer = compat.InterruptibleTrainer(raise_our_own_error, scaling_config=ScalingConfig(num_workers=1))
    with pytest.raises(ray.train.TrainingFailedError) as failure:
        trainer.fit()
    assert {repr(compat.user_exception(one)) for one in failure.value.worker_failures.values()} == {"KeyError('ours')"}
