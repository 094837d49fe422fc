"""Line charts as SVG."""

import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from emoji_ldm.evaluate.svg_chart import Curve, draw_line_chart, moving_average

SVG = "{http://www.w3.org/2000/svg}"
LABELS = {"x_label": "step", "y_label": "loss"}


def curve(points, name="raw", **options):
    return Curve(name, name, points, "#d9480f", **options)


def ids(svg):
    return {element.attrib["id"] for element in ET.fromstring(svg).iter() if "id" in element.attrib}


def test_the_moving_average_is_at_the_last_x_of_its_window():
    assert moving_average([(1, 2.0), (2, 4.0), (3, 9.0)], 2) == [(2, 3.0), (3, 6.5)]


@pytest.mark.parametrize("points", [[], [(1, 0.5)]])
def test_too_few_points_give_no_chart(points):
    assert draw_line_chart([curve(points)], **LABELS) == ""


@pytest.mark.parametrize("value", [0.5, 0.0])
def test_a_constant_curve_has_a_chart(value):
    svg = draw_line_chart([curve([(step, value) for step in range(10)])], **LABELS)
    assert svg.startswith("<svg") and "nan" not in svg and "inf" not in svg


def test_a_chart_is_an_accessible_scalable_element_with_real_text():
    root = ET.fromstring(draw_line_chart([curve([(1, 0.5), (2000, 0.05)])], **LABELS))
    assert root.attrib["class"] == "chart" and root.attrib["role"] == "img" and "width" not in root.attrib
    assert root.find(f"{SVG}title").text == "loss over step"
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert "step" in texts and "2,000" in texts and "0.1" in texts


def test_each_curve_has_a_class_and_a_marker_per_point_unless_there_are_many():
    few, many = [(x, 1.0 + x) for x in range(6)], [(x, 1.0 + x) for x in range(100)]
    curves = [curve(many), curve(few, "validation", markers=True), curve(many, "dense", markers=True)]
    root = ET.fromstring(draw_line_chart(curves, **LABELS))
    groups = {element.attrib["class"]: element for element in root.iter(f"{SVG}g") if "class" in element.attrib}
    assert {name: len(list(group.iter(f"{SVG}use"))) for name, group in groups.items()} == {
        "raw": 0, "validation": 6, "dense": 0}  # fmt: skip


def test_charts_of_a_page_share_no_ids_and_equal_data_give_equal_text():
    one, other = ([curve([(1, 0.5), (2, y)], markers=True)] for y in (0.1, 0.2))
    assert draw_line_chart(one, **LABELS) == draw_line_chart(one, **LABELS)
    assert not ids(draw_line_chart(one, **LABELS)) & ids(draw_line_chart(other, **LABELS))


def test_a_long_training_stays_a_small_chart():
    svg = draw_line_chart([curve([(x, 1.5 + (x * 7919 % 100) / 100) for x in range(50_000)])], **LABELS)
    assert len(svg) < 100_000


@pytest.mark.slow
def test_matplotlib_is_loaded_only_when_a_chart_is_drawn():
    code = "import sys, emoji_ldm.evaluate.svg_chart; print('matplotlib' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
