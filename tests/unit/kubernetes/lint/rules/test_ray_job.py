"""The rules about RayJobs and RayCronJobs: each notices what breaks it, and nothing else."""

import pytest
import yaml
from ray.runtime_env import RuntimeEnv

from emoji_ldm.kubernetes.lint.pods import ray_job as ray_job_of
from emoji_ldm.kubernetes.lint.rules import ray_job
from tests.manifests.cases import CASES
from tests.manifests.operators import CRON
from tests.manifests.render import OVERLAYS, rendered
from tests.unit.kubernetes.lint.rules.rule_cases import (
    assert_broken_rule_is_noticed,
    assert_obeyed_rule_has_no_findings,
    found_by,
    rules_in,
)


@pytest.mark.parametrize("rule", rules_in(ray_job))
def test_a_broken_rule_about_ray_jobs_is_noticed(rule):
    assert_broken_rule_is_noticed(rule)


@pytest.mark.parametrize("rule", rules_in(ray_job))
def test_an_obeyed_rule_about_ray_jobs_has_no_findings(rule):
    assert_obeyed_rule_has_no_findings(rule)


@pytest.mark.parametrize("text", ["0 3 * * 7", "*/0 * * * *", "0 5-1 * * *", "0 3 * * MOON", "0 MON * * *",
                                  "@every banana", "0 3 * *"])  # fmt: skip
def test_a_schedule_that_the_operator_refuses_is_none(text):
    assert found_by("the schedule is one", CRON, {"spec.schedule": text})


@pytest.mark.parametrize("text", ["0 3 * * MON-FRI", "0 3 ? * sun", "0 3 1 JAN,jul *", "@every 1h30m", "5/10 * * * *"])
def test_names_of_days_and_months_are_part_of_a_schedule(text):
    assert not found_by("the schedule is one", CRON, {"spec.schedule": text})


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ray_accepts_every_runtime_environment(overlay):
    """No job of ours needs one: the images hold everything. Whoever adds one has it checked here."""
    texts = [job[1].get("runtimeEnvYAML") for obj in rendered(overlay) if (job := ray_job_of(obj))]
    assert texts
    for text in [*texts, CASES["the runtime environment is a mapping"][2]["spec.runtimeEnvYAML"]]:
        RuntimeEnv(**(yaml.safe_load(text or "") or {}))
