"""Requests: their defaults and their text form."""

import hashlib
from dataclasses import replace
from typing import get_args

import pytest

from emoji_ldm.config import GenerateConfig
from emoji_ldm.generate.request import (
    CORE_FIELDS,
    SCHEDULERS,
    GenerationRequest,
    compatible_schedulers,
    default_scheduler,
    image_sha256,
    request_settings,
)

FLOW_CLASS = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
FLOW_PREDICTION = {"_class_name": "DPMSolverMultistepScheduler", "prediction_type": "flow_prediction"}


@pytest.mark.parametrize(
    ("config", "name"), [({}, "ddim"), (FLOW_CLASS, "flow_euler"), (FLOW_PREDICTION, "flow_euler")]
)
def test_the_default_scheduler_follows_what_the_model_predicts(config, name):
    assert default_scheduler(config) == name == compatible_schedulers(config)[0]


def test_a_flow_model_is_compatible_with_flow_schedulers_only():
    assert compatible_schedulers(FLOW_CLASS) == ("flow_euler",)
    assert compatible_schedulers(FLOW_PREDICTION) == ("flow_euler", "dpmpp_2m")
    assert set(compatible_schedulers({})) == set(SCHEDULERS) - {"flow_euler"}


def test_every_scheduler_can_be_configured():
    literal, _ = get_args(GenerateConfig.model_fields["scheduler"].annotation)  # Literal[...] | None
    assert {*get_args(literal)} == set(SCHEDULERS)


def test_settings_without_effect_are_left_out():
    plain = GenerationRequest("a")
    assert tuple(request_settings(plain)) == CORE_FIELDS
    assert request_settings(replace(plain, strength=0.3)) == request_settings(plain)  # there is no image


def test_settings_name_images_by_their_hash():
    settings = request_settings(GenerationRequest("a", image=b"one", mask=b"two", strength=0.5))
    assert settings["image_sha256"] == hashlib.sha256(b"one").hexdigest() == image_sha256(b"one")
    assert settings["mask_sha256"] == hashlib.sha256(b"two").hexdigest()
    assert settings["strength"] == "0.5" and "image" not in settings
