"""Line charts as inline SVG: no script, no font, sharp at any size."""

from __future__ import annotations

import math
from collections.abc import Sequence

WIDTH, HEIGHT = 600, 230
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 14, 36

Points = Sequence[tuple[float, float]]


def smooth(points: Points, window: int) -> list[tuple[float, float]]:
    """The moving average over `window` points, at the window's last x."""
    values = [y for _, y in points]
    return [(points[i - 1][0], sum(values[i - window : i]) / window) for i in range(window, len(points) + 1)]


def line_chart(points: Points, *, x_label: str, y_label: str) -> str:
    """Raw points as a thin line, their moving average as a thick one, on a logarithmic y axis."""
    if len(points) < 2:
        return ""
    xs, ys = [x for x, _ in points], [max(y, 1e-9) for _, y in points]
    low, high = math.log10(min(ys)) - 0.02, math.log10(max(ys)) + 0.02

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x = LEFT + (point[0] - xs[0]) / max(xs[-1] - xs[0], 1) * (WIDTH - LEFT - RIGHT)
        y = TOP + (high - math.log10(max(point[1], 1e-9))) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return x, y

    parts = [_y_tick(value, place((xs[0], value))[1]) for value in _ticks(low, high)]
    parts += [_x_tick(x, place((x, ys[0]))[0]) for x in _steps(xs[0], xs[-1])]
    parts.append(_path([place(point) for point in points], "raw"))
    parts.append(_path([place(point) for point in smooth(points, max(len(points) // 20, 2))], "mean"))
    parts.append(f'<text class="label" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{x_label}</text>')
    title = f"<title>{y_label} over {x_label}</title>"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" class="chart">{title}{"".join(parts)}</svg>'


def _ticks(low: float, high: float) -> list[float]:
    values = [m * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 3, 5, 7)]
    inside = [value for value in values if low <= math.log10(value) <= high]
    return inside if len(inside) >= 2 else [10**low, 10**high]


def _steps(first: float, last: float, count: int = 5) -> list[float]:
    return [first + (last - first) * i / count for i in range(count + 1)]


def _y_tick(value: float, y: float) -> str:
    grid = f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return f'{grid}<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.2g}</text>'


def _x_tick(value: float, x: float) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 18}" text-anchor="middle">{value:,.0f}</text>'


def _path(points: Points, kind: str) -> str:
    text = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path class="{kind}" d="M{text}"/>' if points else ""
