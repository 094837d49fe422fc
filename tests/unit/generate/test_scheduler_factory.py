"""diffusers scheduler objects with a model's settings."""

import pytest

from emoji_ldm.generate.scheduler_factory import SCHEDULER_CLASSES, build_diffusers_scheduler

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}


@pytest.mark.parametrize("name", SCHEDULER_CLASSES)
def test_a_scheduler_takes_the_settings_of_the_model_and_ignores_those_of_others(name):
    scheduler = build_diffusers_scheduler(name, {"beta_start": 0.002, "shift": 3.0, "no_such_field": 1})
    assert type(scheduler) is SCHEDULER_CLASSES[name]
    assert scheduler.config.beta_start == 0.002 and "no_such_field" not in scheduler.config


def test_flow_uses_its_own_class_or_first_order_dpm_solver():
    assert type(build_diffusers_scheduler("flow_euler", FLOW)).__name__ == "FlowMatchEulerDiscreteScheduler"
    solver = build_diffusers_scheduler("flow_euler", {"prediction_type": "flow_prediction", "use_flow_sigmas": True})
    assert solver.config.solver_order == 1 and solver.config.algorithm_type == "dpmsolver++"


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("ddpm", {"variance_type": "learned_range"}, "variance_type 'learned_range'"),
        ("euler_ancestral", {"prediction_type": "sample"}, "prediction_type 'sample'"),
        ("flow_euler", {**FLOW, "use_dynamic_shifting": True}, "use_dynamic_shifting=true"),
        ("flow_euler", {**FLOW, "invert_sigmas": True}, "invert_sigmas=true"),
    ],
)
def test_settings_that_no_formula_covers_are_refused(name, config, message):
    with pytest.raises(ValueError, match=message):
        build_diffusers_scheduler(name, config)
