"""Tests of what travels between the processes of the service."""

import pickle

import pytest

from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.serve.backend import ImageTask, Overloaded, PartialImage, ReplicaLost, TaskTimeout


@pytest.mark.parametrize(
    "value", [ImageTask("demo", GenerationRequest("a cat", seed=3), "ann", bulk=True), PartialImage(1, b"png")]
)
def test_tasks_and_previews_survive_pickling(value):
    assert pickle.loads(pickle.dumps(value)) == value


def test_errors_survive_pickling_with_their_message():
    overloaded = pickle.loads(pickle.dumps(Overloaded(2.5)))
    assert overloaded.retry_after_s == 2.5 and str(overloaded) == "try again in 2.5 s"
    assert str(pickle.loads(pickle.dumps(TaskTimeout()))) == "not drawn in time"
    assert str(pickle.loads(pickle.dumps(ReplicaLost("8 replicas died over it")))) == "8 replicas died over it"
