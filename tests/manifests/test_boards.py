"""Grafana boards: generated, whole, and of figures that exist."""

import importlib.util
import itertools
import json

import pytest
import yaml

from tests.manifests.promql import MONITORING, ROOT, boards, is_exported, names, panels, rules

BOARDS = boards()
OURS = {name: board for name, board in BOARDS.items() if name.startswith("emoji-")}
RECORDED = {rule["record"] for rule in rules() if "record" in rule}
# A slip in Ray 2.60's own board of Ray Data: the metric is called ..._average_task_completion_time_... there.
MISSING_IN_RAY = {"ray_data_task_completion_time_excl_backpressure_s"}
# Grafana's word for a unit, and what an expression of it ends in or begins with.
UNITS = {"short", "none", "s", "h", "ops", "reqps", "Bps", "bytes", "mbytes", "percent", "percentunit", "currencyUSD"}


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("boards", ROOT / "infra" / "boards.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def targets(board):
    return [(panel, target) for panel in panels(board) for target in panel.get("targets", [])]


def overlaps(board):
    """Pairs of panels that lie over each other."""
    places = [(panel["title"], panel["gridPos"]) for panel in board["panels"]]
    return [
        (one, other)
        for (one, a), (other, b) in itertools.combinations(places, 2)
        if a["x"] < b["x"] + b["w"]
        and b["x"] < a["x"] + a["w"]
        and a["y"] < b["y"] + b["h"]
        and b["y"] < a["y"] + a["h"]
    ]


def test_the_boards_are_what_the_pinned_ray_and_our_short_form_give(generator):
    fresh = generator.boards()
    written = {file.name: file.read_text() for file in (MONITORING / "boards").glob("*.json")}
    assert fresh.keys() == written.keys()
    assert [name for name in fresh if fresh[name] != written[name]] == [], "run: python infra/boards.py"


def test_grafana_gets_every_board_in_a_config_map_that_its_sidecar_takes():
    made = yaml.safe_load((MONITORING / "kustomization.yaml").read_text())["configMapGenerator"]
    assert sorted(file.removeprefix("boards/") for one in made for file in one["files"]) == sorted(BOARDS)
    assert all(one["options"]["labels"]["grafana_dashboard"] == "1" for one in made)


@pytest.mark.parametrize("name", BOARDS)
def test_every_panel_shows_metrics_that_exist(name):
    shown = {metric for _, target in targets(BOARDS[name]) for metric in names(target["expr"])}
    assert shown and {one for one in shown if not (one in RECORDED or is_exported(one))} <= MISSING_IN_RAY


@pytest.mark.parametrize("name", BOARDS)
def test_every_board_can_be_narrowed_to_a_cluster_and_has_a_name_of_its_own(name):
    board = BOARDS[name]
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert "ray_io_cluster" in variables["Cluster"]["definition"]
    assert any('ray_io_cluster=~"$Cluster"' in target["expr"] for _, target in targets(board))
    assert [other["uid"] for other in BOARDS.values()].count(board["uid"]) == 1
    assert len({panel["id"] for panel in panels(board)}) == len(list(panels(board)))


def test_boards_are_about_crawl_caption_train_serve_queues_and_cost():
    assert {name.removeprefix("emoji-").removesuffix(".json") for name in OURS} == {
        "crawl", "caption", "train", "serve", "queues", "cost"
    }  # fmt: skip


@pytest.mark.parametrize("name", OURS)
def test_no_panel_covers_another_and_all_lie_within_the_page(name):
    assert overlaps(OURS[name]) == []
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in OURS[name]["panels"])


def test_panels_that_cover_each_other_are_noticed():
    a, b = ({"title": title, "gridPos": {"x": x, "y": 0, "w": 8, "h": 8}} for title, x in (("a", 0), ("b", 7)))
    assert overlaps({"panels": [a, b]}) == [("a", "b")]


@pytest.mark.parametrize("name", OURS)
def test_the_unit_of_a_panel_fits_what_it_shows(name):
    for panel, target in targets(OURS[name]):
        unit, expr = panel["fieldConfig"]["defaults"]["unit"], target["expr"]
        assert unit in UNITS, panel["title"]
        if expr.startswith(("sum by", "sum(rate")) and "rate(" in expr and "/" not in expr:
            assert unit in ("ops", "reqps"), panel["title"]
        if "histogram_quantile" in expr or "time()" in expr:
            assert unit == "s", panel["title"]


def test_every_panel_of_ours_has_a_description():
    assert [panel["title"] for board in OURS.values() for panel in panels(board)
            if panel["type"] != "row" and not panel["description"]] == []  # fmt: skip
    assert json.dumps(OURS)  # plain JSON
