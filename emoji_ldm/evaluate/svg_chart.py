"""Line charts as inline SVG: no script, no font, sharp at any size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 480, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 26, 14, 40
MAX_POINTS = 600  # of a drawn line: more are not seen, and would make the page large
MARKER_KINDS = ("held", "held-ema")  # measurements: each is shown, unless they are many
MAX_MARKERS = 40

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Curve:
    """One line of a chart; `kind` is its class in the style sheet."""

    points: Points
    kind: str


def moving_average(points: Points, window: int) -> list[tuple[float, float]]:
    """The moving average over `window` points, at the window's last x."""
    values = [y for _, y in points]
    return [(points[i - 1][0], sum(values[i - window : i]) / window) for i in range(window, len(points) + 1)]


def downsample(points: Points) -> Points:
    """At most about `MOST_POINTS` points: per stretch its lowest and its highest, so that no spike is lost."""
    if len(points) <= MAX_POINTS:
        return points
    size = math.ceil(2 * len(points) / MAX_POINTS)
    parts = (points[start : start + size] for start in range(0, len(points), size))
    ends = ((min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])) for part in parts)
    return [point for pair in ends for point in sorted(set(pair))]


def line_chart(points: Points, *, x_label: str, y_label: str) -> str:
    """Raw points as a thin line, their moving average as a thick one, on a logarithmic y axis; empty for no points."""
    if len(points) < 2:
        return ""
    mean = Curve(moving_average(points, max(len(points) // 20, 2)), "mean")
    return draw_line_chart([Curve(points, "raw"), mean], x_label=x_label, y_label=y_label)


def draw_line_chart(curves: Sequence[Curve], *, x_label: str, y_label: str) -> str:
    """Lines on one logarithmic y axis; empty if there is nothing to draw."""
    drawn = [Curve(downsample(curve.points), curve.kind) for curve in curves if curve.points]
    every = [point for curve in drawn for point in curve.points]
    if len(every) < 2:
        return ""
    first, last = min(x for x, _ in every), max(x for x, _ in every)
    ys = [max(y, 1e-9) for _, y in every]
    low, high = math.log10(min(ys)) - 0.02, math.log10(max(ys)) + 0.02

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x = LEFT + (point[0] - first) / max(last - first, 1) * (WIDTH - LEFT - RIGHT)
        y = TOP + (high - math.log10(max(point[1], 1e-9))) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return x, y

    parts = [_y_tick(value, place((first, value))[1]) for value in _y_ticks(low, high)]
    parts += [_x_tick(x, place((x, ys[0]))[0]) for x in _x_ticks(first, last)]
    parts += [_svg_curve([place(point) for point in curve.points], curve.kind) for curve in drawn]
    parts.append(f'<text class="label" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(x_label)}</text>')
    title = f"<title>{escape(y_label)} over {escape(x_label)}</title>"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" class="chart">{title}{"".join(parts)}</svg>'


def _y_ticks(low: float, high: float) -> list[float]:
    """Round values inside the range, at most seven of them, evenly spread on the logarithmic axis."""
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5, 7), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
        values = [m * 10.0**e for e in range(math.floor(low) - 1, math.ceil(high) + 1) for m in digits]
        inside = [value for value in values if low <= math.log10(value) <= high]
        if len(inside) >= 3:
            return inside[:: math.ceil(len(inside) / 7)]
    return [10**low, 10 ** ((low + high) / 2), 10**high]


def _x_ticks(first: float, last: float, count: int = 5) -> list[float]:
    """Round values from first to last, `count` or fewer gaps."""
    gap = max(last - first, 1) / count
    unit = 10 ** math.floor(math.log10(gap))
    step = max(1.0, next(m * unit for m in (1, 2, 5, 10) if m * unit >= gap))
    begin = math.ceil(first / step) * step
    return [begin + step * number for number in range(int((last - begin) / step) + 1)]


def _y_tick(value: float, y: float) -> str:
    grid = f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return f'{grid}<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.2g}</text>'


def _x_tick(value: float, x: float) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 18}" text-anchor="middle">{value:,.0f}</text>'


def _svg_curve(points: Points, kind: str) -> str:
    text = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    path = f'<path class="{kind}" d="M{text}"/>' if points else ""
    marks = [f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points]
    return path + "".join(marks if kind in MARKER_KINDS and len(points) <= MAX_MARKERS else [])
