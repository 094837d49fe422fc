"""The command, its scenarios, and what it takes from manifests."""

import json
import subprocess
import sys

import pytest
from rich.console import Console

from emoji_ldm.cluster.simulate import manifests
from emoji_ldm.cluster.simulate.page import page
from emoji_ldm.cluster.simulate.results import results
from emoji_ldm.cluster.simulate.scenario import load, parse, presets
from emoji_ldm.cluster.simulate.table import show
from emoji_ldm.errors import ConfigError
from ray_jobs.cli.main import main
from tests.emoji_server import ROOT
from tests.unit.cluster.simulated import simulate, small

pytestmark = pytest.mark.slow

K8S = ROOT / "k8s"
QUEUE = {
    "kind": "ClusterQueue",
    "metadata": {"name": "train"},
    "spec": {
        "cohortName": "emoji-ldm",
        "queueingStrategy": "StrictFIFO",
        "preemption": {
            "reclaimWithinCohort": "Any",
            "borrowWithinCohort": {"policy": "LowerPriority", "maxPriorityThreshold": 10000},
        },
        "resourceGroups": [
            {
                "coveredResources": ["cpu", "memory"],
                "flavors": [
                    {
                        "name": "cpu",
                        "resources": [
                            {"name": "cpu", "nominalQuota": "500m", "borrowingLimit": 2},
                            {"name": "memory", "nominalQuota": "512Mi", "lendingLimit": "256Mi"},
                        ],
                    }
                ],
            }
        ],
    },
}


def command(*arguments):
    words = [sys.executable, "-m", "emoji_ldm.kubernetes.simulate", "--manifests", str(K8S), *arguments]
    return subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=120)


def test_a_cluster_queue_is_read_with_its_units_and_policies():
    assert manifests.queues([QUEUE]) == {
        "train": {
            "cohort": "emoji-ldm", "within": "Never", "reclaim": "Any", "strict": True, "borrow_over": 10000,
            "nominal": {"cpu": {"cpu": 0.5, "memory": 0.5}}, "borrowing": {"cpu": {"cpu": 2.0}},
            "lending": {"cpu": {"memory": 0.25}},
        }
    }  # fmt: skip


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("1h30m", 5400), ("1.5h", 5400), ("500ms", 0.5)])
def test_durations_are_those_of_go(text, seconds):
    assert manifests.duration(text) == pytest.approx(seconds)


def test_a_node_pool_that_never_consolidates_keeps_its_nodes():
    pool = {"kind": "NodePool", "metadata": {"name": "gpu"}, "spec": {"disruption": {"consolidateAfter": "Never"}}}
    assert manifests.node_pools([pool])["gpu"]["idle_s"] > 1e9
    with pytest.raises(ConfigError, match="no duration"):
        manifests.duration("soon")


@pytest.mark.parametrize(
    ("text", "number"), [("500m", 0.5), ("1e3", 1000), ("2P", 2e15), (4, 4), ("1.5Gi", 1.5 * 2**30)]
)
def test_quantities_are_those_of_kubernetes(text, number):
    assert manifests.amount(text) == number


def test_a_worker_that_says_only_its_limits_asks_for_them_and_hosts_count():
    limits = {"cpu": "7", "memory": "26Gi", "nvidia.com/gpu": "1"}
    container = {"resources": {"limits": limits, "requests": {"cpu": "2"}}}
    spec = {"groupName": "w", "minReplicas": 1, "maxReplicas": 3, "numOfHosts": 2,
            "template": {"spec": {"containers": [container]}}}  # fmt: skip
    group = manifests._group(spec, None, ["gpu"])
    assert (group["cpu"], group["gpus"], group["image"], group["least"], group["most"]) == (2, 1, "gpu", 2, 6)


def test_only_the_most_of_the_workers_may_be_given():
    serve = load("storm", ["work.serve.most_workers=5"], K8S).work[-1]
    assert (serve.groups[0].least, serve.groups[0].most) == (2, 5)


def test_a_node_pools_limit_becomes_nodes_of_the_scenarios_machine():
    pool = {
        "kind": "NodePool",
        "metadata": {"name": "gpu"},
        "spec": {"limits": {"nvidia.com/gpu": "20", "cpu": "1k"}, "disruption": {"consolidateAfter": "1h30m"}},
    }
    found = manifests.node_pools([pool])["gpu"]
    assert manifests.extra_fields({"cpu": 96, "gpus": 8}, found) == {"limit": 2, "idle_s": 5400.0}


def test_the_presets_read_the_overlay_of_eks():
    assert presets() == ["plan", "scale", "storm"]
    plan = load("plan", [], K8S)
    train = next(work for work in plan.work if work.name == "train")
    assert train.queue == "train" and train.priority == 100_000 and train.groups[0].least == 64
    assert train.groups[0].flavors == ["gpu-on-demand"] and train.groups[0].gpus == 1
    assert plan.queues["train"].strict and plan.queues["train"].cohort == "emoji-ldm"
    assert plan.queues["batch"].nominal["gpu-spot"]["nvidia.com/gpu"] == 320  # the scenario's own
    storm = load("storm", [], K8S)
    assert storm.pools["gpu-spot"].limit == 128  # the NodePool's
    assert all(work.source for preset in (plan, storm) for work in preset.work)


def test_an_override_names_work_and_pools_by_name():
    plan = load("plan", ["pools.gpu-spot.price_usd_h=1.5", "work.caption.rate=2", "seed=7"], K8S)
    assert plan.pools["gpu-spot"].price_usd_h == 1.5 and plan.work[1].rate == 2 and plan.seed == 7


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
        ("work.caption.rate=[1", "is no YAML"),
        ("pools.cpu.cpu=abc", "pools.cpu.cpu: input should be a valid number"),
        ("pools.cpu.cpu=0", "input should be greater than 0"),
        ("rates.pull_gb_s=0", "input should be greater than 0"),
        ("rates.reconcile_concurrency=0", "input should be greater than or equal to 1"),
        ("work.caption.checkpoint_s=0", "input should be greater than 0"),
        ("work.train.copies=0", "input should be greater than or equal to 1"),
        ("work.train.total=.nan", "input should be a finite number"),
        ("overlay=null", "work.0.queue: field required$"),
        ("work.serve.most_workers=3", "group serve: most 3 is less than least 8"),
        ("work.train.groups=[]", "give its groups, or workers and flavors"),
        ("pools.cpu.loss_per_h=0.1", "pools.cpu: loss_per_h is of spot nodes"),
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
        ({"workers": 3}, "work caption: workers: of the Pods of a manifest"),
        ({"like": "caption"}, "like caption: the scenario names no overlay"),
        ({"groups": []}, "give its groups"),
        ({"head_flavors": ["moon"]}, "group head: no pool 'moon'"),
        ({"total": None, "load_per_s": 1, "min_available": 9}, "min_available 9 is more than its 8 least workers"),
    ],
)
def test_work_that_cannot_be_placed_is_named(change, message):
    with pytest.raises(ConfigError, match=message):
        simulate(small(work=change))


def test_a_missing_scenario_names_the_presets():
    done = command("nowhere.yaml")
    assert done.returncode == 2
    assert done.stderr == "no scenario 'nowhere.yaml': name a file, or one of plan, scale, storm\n"


def test_json_and_the_page_tell_the_same(tmp_path):
    done = command("storm", "--json", "--output", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told == json.loads((tmp_path / "out" / "simulation.json").read_text())
    html = (tmp_path / "out" / "simulation.html").read_text()
    assert "{{" not in html and html.count("<figure>") == 4 and "<script" not in html
    assert told["spot"]["storms"][0] == {"at_s": 7200.0, "lost": 6, "of": 64}
    assert not any(told["laws"].values()) and told["pods"]["created"] == told["pods"]["ended"]


def test_what_has_not_ended_is_told_with_its_reason():
    values = small(days=0.02, work={"copies": 12, "name": "ca<ption"})
    values["queues"]["batch"]["nominal"]["gpu"]["nvidia.com/gpu"] = 8
    told = results(simulate(values))
    waiting = [run for run in told["open"] if run["stage"] == "pending"]
    assert len(waiting) == 10
    assert "insufficient unused quota for nvidia.com/gpu in flavor gpu, 8 more needed" in waiting[0]["reason"]
    assert "ca&lt;ption-5" in page(told) and "ca<ption" not in page(told)


def test_overrides_may_stand_after_options():
    done = command("plan", "--seed", "3", "work.crawl.rat=1")
    assert done.returncode == 2 and "work.0.rat: extra inputs" in done.stderr
    assert main(["cluster", "simulate", "plan", "--manifests", str(K8S), "--seed", "3", "work.crawl.rat=1"]) == 2


def test_what_published_figures_cannot_take_is_refused():
    done = command("--published", "--seed", "3")
    assert done.returncode == 2 and "--published has loads of its own" in done.stderr


def test_names_are_shown_as_they_are_written(capsys):
    values = small(about="512 px [a100] [/x]", work={"name": "caption[gpu]"})
    show(results(simulate(values)), Console(markup=False, width=200))
    printed = capsys.readouterr().out
    assert "512 px [a100] [/x]" in printed and "caption[gpu]" in printed


def test_the_help_of_the_command_loads_nothing_heavy():
    code = (
        "import sys, emoji_ldm.kubernetes.simulate.command;"
        "print([m for m in ('pydantic', 'yaml', 'rich', 'ray', 'torch') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT).strip() == "[]"


def test_a_scenario_needs_no_overlay():
    assert parse(small()).overlay is None
