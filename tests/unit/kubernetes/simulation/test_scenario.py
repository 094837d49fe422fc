"""Scenarios: presets, overrides, and one line for what is wrong."""

import pytest

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.simulation.scenario import load, parse, presets
from tests.emoji_server import ROOT
from tests.unit.kubernetes.simulation.small_scenarios import small

K8S = ROOT / "k8s"


@pytest.mark.slow  # renders an overlay
def test_the_maximum_of_the_workers_may_be_overridden_alone():
    serve = load("storm", ["work.serve.most_workers=5"], K8S).work["serve"].groups["serve"]
    assert (serve.min_replicas, serve.maximum) == (2, 5)


@pytest.mark.slow  # renders an overlay
def test_the_presets_read_the_overlay_of_eks():
    assert presets() == ["plan", "scale", "storm"]
    plan = load("plan", [], K8S)
    train, (workers,) = plan.work["train"], plan.work["train"].groups.values()
    assert train.queue == "train" and train.priority == 100_000 and train.grace_s == 120
    assert workers.pool == "gpu-on-demand" and workers.gpus == 1 and workers.min_replicas == 64
    assert [group.pool for group in plan.work["caption"].groups.values()] == ["gpu-spot"]
    assert plan.queues["train"].strict and plan.queues["train"].cohort == "emoji-ldm"
    assert plan.queues["batch"].nominal["gpu-spot"]["nvidia.com/gpu"] == 320  # the scenario's own
    storm = load("storm", [], K8S)
    assert storm.pools["gpu-spot"].limit == 128 and storm.pools["gpu-spot"].idle_s == 600  # the NodePool's
    assert all(work.source for preset in (plan, storm) for work in preset.work.values())


@pytest.mark.slow  # renders an overlay
def test_an_override_names_work_and_pools_by_name():
    plan = load("plan", ["pools.gpu-spot.price_usd_h=1.5", "work.caption.rate=2", "seed=7", "rates.start_s=1"], K8S)
    assert plan.pools["gpu-spot"].price_usd_h == 1.5 and plan.work["caption"].rate == 2
    assert plan.seed == 7 and plan.rates.start_s == 1


@pytest.mark.slow  # renders an overlay
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("work.caption.rat=2", "work.caption.rat: extra inputs are not permitted"),
        ("pools.gpu-spot.price_usd_h=-1", "price_usd_h: input should be greater than or equal to 0"),
        ("work.nothing.rate=2", "work.nothing.queue: field required"),
        ("rates", "override 'rates' has no value"),
        ("work.caption.like=captions", "work caption: like 'captions': the overlay has no such RayJob"),
        ("work.train.after=[later]", "after later: no such work"),
        ("work.serve.load_per_s=null", "work serve: give total"),
        ("overlay=moon", "no overlay 'moon'"),
        ("work.caption.rate=[1", "work.caption.rate: input should be a valid number"),
        ("pools.cpu.cpu=abc", "pools.cpu.cpu: input should be a valid number"),
        ("pools.cpu.cpu=0", "input should be greater than 0"),
        ("rates.api_pods_per_s=0", "input should be greater than 0"),
        ("rates.reconcile_concurrency=0", "input should be greater than or equal to 1"),
        ("work.train.copies=0", "input should be greater than or equal to 1"),
        ("work.train.total=.nan", "input should be a finite number"),
        ("work.train.shard_s=60", "work train: shard_s: only elastic jobs work in shards"),
        ("overlay=null", "work.crawl.queue: field required$"),
        ("work.serve.most_workers=3", "max_replicas 3 is less than min_replicas 8"),
        ("work.train.groups={}", "work train: give its groups, or workers and pool"),
        ("work.caption.pool=gpu", "work caption: no pool 'gpu' for its Pods"),
        ("pools.gpu-spot.cpu=6", "larger than any node of pool gpu-spot"),
        ("work=3", "work: input should be a valid dictionary"),
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
        ({"groups": {}}, "groups: dictionary should have at least 1 item"),
    ],
)
def test_work_that_cannot_be_placed_is_named(change, message):
    with pytest.raises(ConfigError, match=message):
        parse(small(work=change))


def test_heads_need_the_pool_of_that_kind():
    values = small()
    del values["pools"]["cpu"]
    with pytest.raises(ConfigError, match="no pool 'cpu' for its Pods"):
        parse(values)


def test_a_scenario_needs_no_overlay():
    assert parse(small()).overlay is None
