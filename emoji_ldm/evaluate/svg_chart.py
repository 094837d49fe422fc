"""Line charts with a logarithmic y axis, drawn by matplotlib as SVG for an HTML page."""

from __future__ import annotations

import hashlib
import io
import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

# Matplotlib takes half a second to import, so it is imported only where a chart is drawn.
if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH_PT, HEIGHT_PT = 480, 230
LEFT_PT, RIGHT_PT, TOP_PT, BOTTOM_PT = 52, 26, 14, 40  # margins
MAX_MARKERS = 40  # more points than this are drawn as a line without markers
MIN_Y = 1e-9  # smaller values have no place on a logarithmic axis
GRID_COLOR, TEXT_COLOR = "#e3e5ea", "#646a76"
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Curve:
    """One line of a chart."""

    name: str  # CSS class of the line in the SVG
    label: str  # text of the legend
    points: Points
    color: str
    width_pt: float = 2.0
    markers: bool = False  # whether points are marked, unless they are many


def moving_average(points: Points, window: int) -> list[tuple[float, float]]:
    """The mean of each `window` successive points, at the x of the last of them."""
    values = [y for _, y in points]
    return [(points[i - 1][0], sum(values[i - window : i]) / window) for i in range(window, len(points) + 1)]


def draw_line_chart(curves: Sequence[Curve], *, x_label: str, y_label: str) -> str:
    """An `<svg class="chart">` element; equal arguments give equal text. Empty if there are fewer than two points.

    Text stays text, so the page's fonts apply and a reader can select it.
    """
    curves = [curve for curve in curves if curve.points]
    if sum(len(curve.points) for curve in curves) < 2:
        return ""
    import matplotlib
    from matplotlib.figure import Figure

    # Ids in the SVG are hashes of their content and this salt: unique on a page with several charts, and reproducible.
    salt = hashlib.sha256(repr((curves, x_label, y_label)).encode()).hexdigest()
    # Simplifying merges points that are nearer than half a pixel, so that long trainings do not make the page large.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "path.simplify_threshold": 0.5}):
        # Not pyplot, whose figures are global state of the process. At 72 dpi one pixel is one point.
        figure = Figure(figsize=(WIDTH_PT / 72, HEIGHT_PT / 72), dpi=72)
        axes = figure.add_axes((
            LEFT_PT / WIDTH_PT, BOTTOM_PT / HEIGHT_PT, 1 - (LEFT_PT + RIGHT_PT) / WIDTH_PT,
            1 - (TOP_PT + BOTTOM_PT) / HEIGHT_PT,
        ))  # fmt: skip
        _style_axes(axes, curves, x_label)
        for curve in curves:
            marker = "o" if curve.markers and len(curve.points) <= MAX_MARKERS else ""
            (line,) = axes.plot(
                [x for x, _ in curve.points], [max(y, MIN_Y) for _, y in curve.points], color=curve.color,
                linewidth=curve.width_pt, marker=marker, markersize=6, solid_joinstyle="round",
                clip_on=False,  # the limits fit the data, and half of the last marker lies beyond them
            )  # fmt: skip
            line.set_gid(f"curve-{curve.name}")
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return _inline_svg(stream.getvalue(), f"{y_label} over {x_label}")


def _style_axes(axes: Axes, curves: Sequence[Curve], x_label: str) -> None:
    """Light horizontal grid lines, few ticks, no frame, and limits that fit the data."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

    xs = [x for curve in curves for x, _ in curve.points]
    logs = [math.log10(max(y, MIN_Y)) for curve in curves for _, y in curve.points]
    axes.set_yscale("log")
    # At least one step wide, as matplotlib warns about limits that are equal.
    axes.set_xlim(min(xs), max(max(xs), min(xs) + 1))
    axes.set_ylim(10 ** (min(logs) - 0.02), 10 ** (max(logs) + 0.02))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    # Powers of ten alone would give too few ticks: 1, 2 and 5 times each of them are shown where the data span most of
    # a decade, and below that the locator chooses.
    decades = max(logs) - min(logs)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades > 0.7 else "auto", numticks=8))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.3g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.tick_params(length=0, pad=7, labelsize=12, labelcolor=TEXT_COLOR)
    axes.grid(axis="y", color=GRID_COLOR, linewidth=1)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel(x_label, loc="right", fontsize=12, color=TEXT_COLOR)


def _inline_svg(document: bytes, title: str) -> str:
    """The SVG document as an element for an HTML page: scalable, named, and without ids that other charts have too."""
    # Otherwise ElementTree would invent prefixes (ns0:svg), which HTML parsers do not take for SVG elements.
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    root = ET.fromstring(document)
    for metadata in root.findall(f"{{{SVG}}}metadata"):
        root.remove(metadata)
    # Without a fixed size the `viewBox` remains, and the style sheet of the page scales the chart to its column.
    for name in ("width", "height"):
        root.attrib.pop(name)
    root.attrib |= {"class": "chart", "role": "img"}
    caption = ET.Element(f"{{{SVG}}}title")
    caption.text = title
    root.insert(0, caption)
    # matplotlib numbers its groups alike in every drawing ("axes_1", ...): such ids would repeat on the page.
    referenced = _referenced_ids(root)
    for element in root.iter():
        name = element.attrib.get("id", "")
        # The page colours its legend by class, and a class may occur in several charts, unlike an id.
        if name.startswith("curve-"):
            element.attrib["class"] = name.removeprefix("curve-")
        if name and name not in referenced:
            del element.attrib["id"]
    return ET.tostring(root, encoding="unicode")


def _referenced_ids(root: ET.Element[Any]) -> set[str]:
    """Ids of markers and clip paths, which other elements of the drawing refer to."""
    links = {element.attrib.get(f"{{{XLINK}}}href", "").removeprefix("#") for element in root.iter()}
    clips = {element.attrib.get("clip-path", "").removeprefix("url(#").removesuffix(")") for element in root.iter()}
    return links | clips
