"""Texts inside manifests that have a grammar of their own: schedules, commands, the config of Serve."""

import pytest

from emoji_ldm.kubernetes.lint.rules import violations
from tests.manifests.good import edited
from tests.manifests.operators import CRON, JOB, SERVICE

WORKERS = "spec.rayClusterSpec.workerGroupSpecs.0"


def found_by(rule, name, edits):
    """What one rule finds in the edited object."""
    obj, around = edited(name, edits)
    return [text for one, _, text in violations(obj, around) if one.name == rule]


@pytest.mark.parametrize("text", ["0 3 * * 7", "*/0 * * * *", "0 5-1 * * *", "0 3 * * MOON", "0 MON * * *",
                                  "@every banana", "0 3 * *"])  # fmt: skip
def test_a_schedule_that_the_operator_refuses_is_none(text):
    assert found_by("the schedule is one", CRON, {"spec.schedule": text})


@pytest.mark.parametrize("text", ["0 3 * * MON-FRI", "0 3 ? * sun", "0 3 1 JAN,jul *", "@every 1h30m", "5/10 * * * *"])
def test_names_of_days_and_months_are_part_of_a_schedule(text):
    assert not found_by("the schedule is one", CRON, {"spec.schedule": text})


@pytest.mark.parametrize("word", ["'train.setps=9'", '"train.lr=much"', "'crawl.tag=[Blobs, Cat]'", "Train.steps=9"])
def test_overrides_in_quotes_are_read_as_the_shell_does(word):
    assert found_by("overrides are fields of the config", JOB, {"spec.entrypoint": f"emoji-ldm train {word}"})


def test_an_override_with_a_blank_is_one_word():
    edits = {"spec.entrypoint": "emoji-ldm crawl 'crawl.tags=[Blobs, Cat]'"}
    assert not found_by("overrides are fields of the config", JOB, edits)


@pytest.mark.parametrize(("words", "wrong"), [("-c /nope.yaml", True), ("--config=/nope.yaml", True),
                                              ("--config demo", False), ("-c dreambooth", False)])  # fmt: skip
def test_a_config_is_a_mounted_file_or_a_preset(words, wrong):
    edits = {"spec.entrypoint": f"emoji-ldm train {words}"}
    assert bool(found_by("configs lie where commands look", JOB, edits)) is wrong


def test_an_empty_command_is_a_finding():
    assert not found_by("configs lie where commands look", JOB, {"spec.entrypoint": ""})
    assert found_by("entrypoints are commands", JOB, {"spec.entrypoint": ""})


@pytest.mark.parametrize("text", ["applications: [serve]", "applications: serve", "applications: {a: b}", "[1]", "",
                                  "a", "applications: [{import_path: 'a:b', args: x}]"])  # fmt: skip
def test_a_config_of_serve_of_a_wrong_form_is_a_finding(text):
    assert found_by("the serve config is ours", SERVICE, {"spec.serveConfigV2": text})


def test_a_gang_needs_one_flavor_that_has_room_for_all_of_a_group():
    """Together the queue has enough GPUs; in no flavor are there so many."""
    flavor = {"name": "gpu-more", "resources": [
        {"name": "cpu", "nominalQuota": 64}, {"name": "memory", "nominalQuota": "999Gi"},
        {"name": "nvidia.com/gpu", "nominalQuota": 1}]}  # fmt: skip
    for replicas, wrong in ((4, False), (5, True)):
        edits = {f"{WORKERS}.replicas": replicas, f"{WORKERS}.maxReplicas": replicas,
                 "ClusterQueue/train:spec.resourceGroups.0.flavors.2": flavor}  # fmt: skip
        assert bool(found_by("a gang fits its queue", JOB, edits)) is wrong


def test_workers_of_several_hosts_count_as_often():
    edits = {f"{WORKERS}.replicas": 3, f"{WORKERS}.numOfHosts": 2}
    assert found_by("a gang fits its queue", JOB, edits)
