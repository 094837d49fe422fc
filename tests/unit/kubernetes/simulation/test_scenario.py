"""Scenarios: presets, overrides, and one line for what is wrong."""

import pytest

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.simulation.scenario import load, parse, presets
from tests.emoji_server import ROOT
from tests.unit.kubernetes.simulation.small_scenarios import small

K8S = ROOT / "k8s"


@pytest.mark.slow  # renders an overlay
def test_the_maximum_of_the_workers_may_be_overridden_alone():
    serve = load("storm", ["work.serve.most_workers=5"], K8S).work[-1]
    assert (serve.groups[0].min_replicas, serve.groups[0].max_replicas) == (2, 5)


@pytest.mark.slow  # renders an overlay
def test_the_presets_read_the_overlay_of_eks():
    assert presets() == ["plan", "scale", "storm"]
    plan = load("plan", [], K8S)
    train = next(work for work in plan.work if work.name == "train")
    assert train.queue == "train" and train.priority == 100_000 and train.groups[0].min_replicas == 64
    assert train.groups[0].flavors == ["gpu-on-demand"] and train.groups[0].gpus == 1
    assert plan.queues["train"].strict and plan.queues["train"].cohort == "emoji-ldm"
    assert plan.queues["batch"].nominal["gpu-spot"]["nvidia.com/gpu"] == 320  # the scenario's own
    storm = load("storm", [], K8S)
    assert storm.pools["gpu-spot"].limit == 128  # the NodePool's
    assert all(work.source for preset in (plan, storm) for work in preset.work)


@pytest.mark.slow  # renders an overlay
def test_an_override_names_work_and_pools_by_name():
    plan = load("plan", ["pools.gpu-spot.price_usd_h=1.5", "work.caption.rate=2", "seed=7"], K8S)
    assert plan.pools["gpu-spot"].price_usd_h == 1.5 and plan.work[1].rate == 2 and plan.seed == 7


@pytest.mark.slow  # renders an overlay
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("work.caption.rat=2", "work.1.rat: extra inputs are not permitted"),
        ("pools.gpu-spot.price_usd_h=-1", "price_usd_h: input should be greater than or equal to 0"),
        ("work.nothing.rate=2", "there is no nothing"),
        ("rates", "an override is path=value"),
        ("work.caption.like=captions", "like 'captions': the overlay has no such RayJob"),
        ("work.train.after=[later]", "after later: no such work"),
        ("work.serve.load_per_s=null", "give total"),
        ("overlay=moon", "no overlay 'moon'"),
        ("work.caption.rate=[1", "is not YAML"),
        ("pools.cpu.cpu=abc", "pools.cpu.cpu: input should be a valid number"),
        ("pools.cpu.cpu=0", "input should be greater than 0"),
        ("rates.pull_gb_s=0", "input should be greater than 0"),
        ("rates.reconcile_concurrency=0", "input should be greater than or equal to 1"),
        ("work.caption.checkpoint_s=0", "input should be greater than 0"),
        ("work.train.copies=0", "input should be greater than or equal to 1"),
        ("work.train.total=.nan", "input should be a finite number"),
        ("overlay=null", "work.0.queue: field required$"),
        ("work.serve.most_workers=3", "max_replicas 3 is less than min_replicas 8"),
        ("work.train.groups=[]", "give its groups, or workers and flavors"),
        ("pools.cpu.loss_per_h=0.1", "pools.cpu: only spot nodes have loss_per_h"),
    ],
)
def test_a_wrong_scenario_is_one_line_that_names_the_field(override, message):
    with pytest.raises(ConfigError, match=message) as raised:
        load("plan", [override], K8S)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queue": "fast"}, "no queue 'fast'"),
        ({"workers": 3}, "workers: needs the Pods of a manifest"),
        ({"like": "caption"}, "like caption: the scenario names no overlay"),
        ({"groups": []}, "give its groups"),
        ({"total": None, "load_per_s": 1, "min_available": 9}, "min_available 9 is more than its 8 workers"),
    ],
)
def test_work_that_cannot_be_placed_is_named(change, message):
    values = small(work=change)
    values["pools"]["spot"] = {**values["pools"]["cpu"], "spot": True}
    with pytest.raises(ConfigError, match=message):
        parse(values)


def test_heads_need_the_pool_of_that_kind():
    values = small()
    del values["pools"]["cpu"]
    with pytest.raises(ConfigError, match="no pool 'cpu' for its head"):
        parse(values)


def test_a_scenario_needs_no_overlay():
    assert parse(small()).overlay is None
