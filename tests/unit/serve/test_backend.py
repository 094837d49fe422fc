"""Tests of what travels between the processes of the service."""

import pickle

import pytest

from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.serve.backend import (
    ImageTask,
    OtherRelease,
    Overloaded,
    PartialImage,
    ReplicaLost,
    TaskTimeout,
    from_message,
    to_message,
)

PLAIN = {str, int, float, bool, bytes, dict}


@pytest.mark.parametrize(
    "task",
    [ImageTask("demo", GenerationRequest("a cat", seed=3), "ann", bulk=True),
     ImageTask("demo", GenerationRequest("", image=b"png", mask=b"png", strength=0.5), timeout_s=3.0)],
)  # fmt: skip
def test_a_task_travels_as_plain_values_of_what_differs_from_the_defaults(task):
    message = to_message(task)
    assert from_message(pickle.loads(pickle.dumps(message))) == task
    assert "width_px" not in message["request"], "what a release adds and a task does not use is not sent"
    assert {type(value) for value in (*message.values(), *message["request"].values())} <= PLAIN


def test_a_field_of_a_newer_release_is_named_and_not_ignored():
    message = to_message(ImageTask("demo", GenerationRequest("a cat")))
    with pytest.raises(OtherRelease, match="does not know priority, tiling"):
        from_message({**message, "priority": 1, "request": {**message["request"], "tiling": True}})


def test_previews_survive_pickling():
    assert pickle.loads(pickle.dumps(PartialImage(1, b"png"))) == PartialImage(1, b"png")


def test_errors_survive_pickling_with_their_message():
    overloaded = pickle.loads(pickle.dumps(Overloaded(2.5)))
    assert overloaded.retry_after_s == 2.5 and str(overloaded) == "try again in 2.5 s"
    assert str(pickle.loads(pickle.dumps(TaskTimeout()))) == "not drawn in time"
    assert str(pickle.loads(pickle.dumps(ReplicaLost("8 replicas died over it")))) == "8 replicas died over it"
