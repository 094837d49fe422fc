"""What Prometheus reads, and its rules: they parse, name what exists, fire when they should and are silent else."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from emoji_ldm.kubernetes.lint.pods import pods
from emoji_ldm.kubernetes.lint.rendering import render
from tests.manifests.promql import MONITORING, ROOT, is_exported, names, panels, plain, rules

ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
RECORDED = {rule["record"] for rule in rules() if "record" in rule}
CASES = {alert: case for file in sorted((Path(__file__).parent / "alerts").glob("*.yaml"))
         for alert, case in yaml.load(file.read_text(), yaml.BaseLoader).items()}  # fmt: skip  # 0x5 is no number
RUNBOOK = ROOT / "infra" / "runbooks" / "alerts.md"


@pytest.fixture(scope="module")
def promtool():
    local = ROOT / ".venv" / "tools" / "promtool"
    found = str(local) if os.access(local, os.X_OK) else shutil.which("promtool")
    if not found:
        pytest.skip("there is no promtool: sh infra/tools.sh fetches it")
    return found


@pytest.fixture(scope="module")
def rule_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("rules") / "rules.yaml"
    specs = [yaml.safe_load(one.read_text())["spec"] for one in sorted((MONITORING / "rules").glob("*.yaml"))]
    file.write_text(yaml.safe_dump({"groups": [group for spec in specs for group in spec["groups"]]}))
    return file


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def unit_test(alert, case):
    """A case of alerts/*.yaml as promtool takes it."""
    rule = ALERTS[alert]
    expected = [
        {"exp_labels": rule["labels"] | one["labels"],
         "exp_annotations": {"summary": one["summary"], "runbook_url": rule["annotations"]["runbook_url"]}}
        for one in case.get("alerts", [])
    ]  # fmt: skip
    return {
        "interval": "1m",
        "input_series": [{"series": series, "values": str(values)} for series, values in case["series"].items()],
        "alert_rule_test": [{"eval_time": case["at"], "alertname": alert, "exp_alerts": expected}],
    }


def failures(promtool, folder, tests):
    """What promtool says against {alert: its cases}; each runs with the rules it needs alone, which is quick."""
    files = []
    for alert, cases in tests.items():
        needed = [rule for rule in rules() if rule.get("record") in names(ALERTS[alert]["expr"])] + [ALERTS[alert]]
        (folder / f"{alert}.rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": needed}]}))
        files.append(folder / f"{alert}.yaml")
        test = {"rule_files": [f"{alert}.rules.yaml"], "tests": [unit_test(alert, case) for case in cases]}
        files[-1].write_text(yaml.safe_dump({**test, "evaluation_interval": "1m"}))
    done = run(promtool, "test", "rules", *map(str, files))
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_promtool_accepts_every_rule(promtool, rule_file):
    done = run(promtool, "check", "rules", str(rule_file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules())} rules found" in done.stdout


def test_every_alert_has_a_case_that_fires_it_and_one_that_does_not():
    assert CASES.keys() == ALERTS.keys()
    assert all(case["fires"]["alerts"] and "alerts" not in case["silent"] for case in CASES.values())


def test_alerts_fire_when_they_should_and_only_then(promtool, tmp_path):
    tests = {alert: [case["fires"], case["silent"]] for alert, case in CASES.items()}
    assert not (said := failures(promtool, tmp_path, tests)), said


def test_a_case_that_does_not_hold_is_seen(promtool, tmp_path):
    fires, silent = (CASES["JobFailed"][kind] for kind in ("fires", "silent"))
    assert failures(promtool, tmp_path, {"JobFailed": [{**silent, "alerts": fires["alerts"]}]})
    assert failures(promtool, tmp_path, {"JobFailed": [{**fires, "alerts": []}]})


def test_rules_name_only_what_is_exported_or_recorded():
    unknown = {name for rule in rules() for name in names(rule["expr"]) if not (name in RECORDED or is_exported(name))}
    assert unknown == set()


@pytest.mark.parametrize("name", ["ray_emoji_ldm_stage_doen_total", "ray_serve_no_such_thing", "kueue_pending_jobs",
                                  "emoji_ldm_stage_done_total"])  # fmt: skip
def test_a_metric_that_is_not_exported_is_noticed(name):
    assert not is_exported(name)


def test_a_broken_expression_is_noticed():
    with pytest.raises(ValueError):
        names("sum by (a) (rate(up[5m])")
    assert plain('rate(a{b=~"$Cluster"}[$__rate_interval])') == 'rate(a{b=~"1"}[5m])'


def test_every_alert_has_a_severity_and_a_link_to_its_section_of_the_runbook():
    sections = set(re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.MULTILINE))
    assert sections == ALERTS.keys()
    for alert, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("critical", "warning")
        page = "https://github.com/emoji-ldm/emoji_ldm/blob/main/infra/runbooks/alerts.md"
        assert rule["annotations"]["runbook_url"] == f"{page}#{alert.lower()}"


@pytest.mark.parametrize("overlay", ["kind", "kind-minio", "eks"])
def test_every_ray_pod_is_read_at_each_port_that_has_figures(overlay):
    things = render(ROOT / "k8s", overlay)
    monitor = next(one for one in things if one["kind"] == "PodMonitor" and one["metadata"]["name"] == "ray")
    spec, ports = monitor["spec"], {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
    roles = spec["selector"]["matchExpressions"][0]["values"]
    for pod in (pod for pod in pods(things) if pod.role in ("head", "worker")):
        labels, named = pod.labels, {port.get("name") for port in pod.spec["containers"][0].get("ports", [])}
        assert spec["selector"]["matchLabels"].items() <= labels.items() and labels["emoji-ldm/role"] in roles
        assert "metrics" in named and (pod.role == "worker" or ports <= named), (pod.owner, pod.role)


def test_each_overlay_with_a_store_reads_that_store_and_eks_has_none():
    def ports(overlay):
        things = render(ROOT / "k8s", overlay)
        found = [one for one in things if one["kind"] == "PodMonitor" and one["metadata"]["name"] == "store"]
        return [(point["port"], point.get("path")) for one in found for point in one["spec"]["podMetricsEndpoints"]]

    assert ports("kind") == [("metrics", None)]
    assert ports("kind-minio") == [("s3", "/minio/v2/metrics/cluster")]
    assert ports("eks") == []


def test_every_monitor_bounds_what_a_target_may_export():
    monitors = [one for one in render(ROOT / "k8s", "kind") if one["kind"] in ("PodMonitor", "ServiceMonitor")]
    assert len(monitors) == 4
    assert all(0 < one["spec"]["sampleLimit"] <= 50000 for one in monitors)


def test_metrics_of_rules_and_boards_are_not_dropped_by_relabeling():
    from tests.manifests.promql import boards

    spec = yaml.safe_load((MONITORING / "ray.yaml").read_text())["spec"]
    dropping = [rule["regex"] for point in spec["podMetricsEndpoints"] for rule in point.get("metricRelabelings", [])
                if rule["action"] == "drop"]  # fmt: skip
    targets = [target for board in boards().values() for panel in panels(board) for target in panel.get("targets", [])]
    used = {name for one in [*rules(), *targets] for name in names(one["expr"])}
    assert dropping and not [name for name in used for regex in dropping if re.fullmatch(regex, name)]


def test_gpu_hours_are_sixtieths_of_what_is_recorded_every_minute():
    from tests.manifests.promql import boards

    (group,) = yaml.safe_load((MONITORING / "rules" / "recorded.yaml").read_text())["spec"]["groups"]
    shown = [target["expr"] for panel in panels(boards()["emoji-cost.json"]) for target in panel.get("targets", [])]
    sums = [expr for expr in shown if "sum_over_time(emoji_ldm:gpus:held" in expr and "emoji_ldm:gpus:used" not in expr]
    assert group["interval"] == "1m" and len(sums) == 5 and all("/ 60" in expr for expr in sums)
