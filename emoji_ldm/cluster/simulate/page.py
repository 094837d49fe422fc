"""The results of a simulation as one web page: charts as inline SVG, no script, nothing fetched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from emoji_ldm.cluster.simulate.table import count, span, usd

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 240, 58, 12, 12, 30
ROW = 26
Series = tuple[str, Sequence[tuple[float, float]]]  # a name, and what it was from each time on


def page(result: dict[str, Any]) -> str:
    """The whole page."""
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    samples = result["samples"]
    pools = [name for name in samples[-1]["nodes"] if any(sample["nodes"][name] for sample in samples)]
    charts: list[tuple[str, str, list[Series], str]] = [
        ("Nodes", "by pool", [(name, _over(samples, "nodes", name)) for name in pools], ""),
        (
            "GPUs",
            "there, and in use",
            [("there", _over(samples, "gpus_there")), ("in use", _over(samples, "gpus_used"))],
            "",
        ),
        ("Jobs that wait", "for quota", [("waiting", _over(samples, "pending"))], ""),
        ("Cost", "US dollars so far", [("cost", _over(samples, "cost_usd"))], "$"),
    ]
    drawn = [_figure(*figure) for figure in charts]
    broken = {law: number for law, number in result["laws"].items() if number}
    values = {
        "about": escape(result["about"]),
        "took": span(result["seconds"]),
        "cost": usd(result["cost_usd"]),
        "idle": usd(result["idle_usd"]),
        "most_nodes": f"{result['most']['nodes']:,}",
        "most_pods": f"{result['most']['pods']:,}",
        "laws": escape(f"broken: {broken}") if broken else "all held: " + ", ".join(result["laws"]),
        "rows": "".join(_row(row) for row in result["work"]),
        "bars": _bars(result["work"], result["seconds"]),
        "charts": "".join(drawn),
        "waiting": "<h2>Not ended</h2>" if result["open"] else "<h2>Checks</h2>",
        "open": "".join(
            f"<li><b>{escape(run['name'])}</b> {escape(run['stage'])}: {escape(run['reason'])}</li>"
            for run in result["open"][:50]
        ),
        "sources": "".join(_source(row) for row in result["work"]),
        "prices": escape(result["prices"]),
    }
    for name, value in values.items():
        template = template.replace("{{" + name + "}}", value)
    return template


def _over(samples: list[dict[str, Any]], field: str, key: str = "") -> list[tuple[float, float]]:
    return [(sample["time_s"], float(sample[field][key] if key else sample[field])) for sample in samples]


def _row(row: dict[str, Any]) -> str:
    begun, ended = row["begun_s"], row["ended_s"]
    took = span(ended - begun) if ended is not None and begun is not None else "not ended"
    name = row["name"] if row["copies"] == 1 else f"{row['name']} × {row['copies']}"
    whole = row["done"] >= row["wanted"] * 0.9999
    done = count(row["done"]) if whole else f"{count(row['done'])} of {count(row['wanted'])}"
    per = usd(row["usd_per_million"]) if row["usd_per_million"] is not None else "–"
    gpus = f"{row['gpu_hours']:,.0f}" if row["gpu_hours"] else "–"
    cells = [("done", f"{done} {row['unit']}"), ("waited", span(row["queued_s"])), ("took", took), ("GPU-hours", gpus)]
    cells += [
        ("cost", usd(row["cost_usd"])),
        ("per million", per),
        ("rate", "measured" if row["measured"] else "assumed"),
    ]
    return f"<tr><th>{escape(name)}</th>" + "".join(f'<td data-name="{n}">{escape(v)}</td>' for n, v in cells) + "</tr>"


def _source(row: dict[str, Any]) -> str:
    kind = "measured" if row["measured"] else "assumed"
    return f"<dt>{escape(row['name'])} <span>{kind}</span></dt><dd>{escape(row['source'] or 'no source given')}</dd>"


def _bars(rows: list[dict[str, Any]], seconds: float) -> str:
    """When each piece of work waited and ran."""
    shown = [row for row in rows if row["submitted_s"] is not None]
    wide, left = 1160, 90
    height = ROW * len(shown) + BOTTOM

    def x(time: float) -> float:
        return left + time / max(seconds, 1) * (wide - left - RIGHT - 20)

    parts = [
        _x_tick(tick, x(tick * _unit(seconds)[0]), height, seconds) for tick in _steps(seconds / _unit(seconds)[0], 8)
    ]
    for number, row in enumerate(shown):
        y, begun, ended = ROW * number + 4, row["begun_s"], row["ended_s"] if row["ended_s"] is not None else seconds
        parts.append(f'<text class="name" x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(row["name"])}</text>')
        first = row["submitted_s"]
        parts.append(_bar("waits", x(first), x(begun if begun is not None else ended), y))
        if begun is not None:
            parts.append(_bar("runs", x(begun), x(ended), y))
    title = "<title>When each work waited and ran</title>"
    return f'<svg class="bars" viewBox="0 0 {wide} {height}" role="img">{title}{"".join(parts)}</svg>'


def _bar(kind: str, start: float, end: float, y: float) -> str:
    return f'<rect class="{kind}" x="{start:.1f}" y="{y}" width="{max(end - start, 1):.1f}" height="18" rx="3"/>'


def _unit(seconds: float) -> tuple[float, str]:
    for size, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 3 * size:
            return size, name
    return 1.0, "seconds"


def _figure(title: str, sub: str, series: Sequence[Series], unit: str) -> str:
    """A chart with a heading and, for several lines, a legend."""
    legend = (
        "".join(f'<span class="key s{n}">{escape(name)}</span>' for n, (name, _) in enumerate(series))
        if len(series) > 1
        else ""
    )
    return f"<figure><figcaption><b>{title}</b> {sub} {legend}</figcaption>{chart(title, series, unit)}</figure>"


def chart(title: str, series: Sequence[Series], unit: str = "") -> str:
    """Steps over time on an axis that begins at zero."""
    last = max(time for _, points in series for time, _ in points)
    top = max(max(value for _, points in series for _, value in points), 1)
    ticks = _steps(top, 5) if top >= 5 else [float(n) for n in range(round(top) + 1)]
    top = max(top, ticks[-1]) * 1.04
    size, _ = _unit(last)

    def place(time: float, value: float) -> tuple[float, float]:
        x = LEFT + time / max(last, 1) * (WIDTH - LEFT - RIGHT)
        return x, TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in ticks:
        y = place(0, tick)[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{unit}{_short(tick)}</text>')
    parts += [_x_tick(tick, place(tick * size, 0)[0], HEIGHT, last) for tick in _steps(last / size, 6)]
    for number, (name, points) in enumerate(series):
        parts.append(f'<path class="line s{number}" d="{_path(points, place)}"><title>{escape(name)}</title></path>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{escape(title)} over time</title>{"".join(parts)}</svg>'
    )


def _path(points: Sequence[tuple[float, float]], place: Any) -> str:
    """A staircase: each value holds until the next sample."""
    words, height = [], 0.0
    for number, (time, value) in enumerate(points):
        x, y = place(time, value)
        if number and value != height:
            words.append(f"H{x:.1f}V{y:.1f}")
        elif not number:
            words.append(f"M{x:.1f} {y:.1f}")
        height = value
    return "".join([*words, f"H{place(*points[-1])[0]:.1f}"])


def _short(value: float) -> str:
    """For the axis: 400, 4,000, 40k, 4M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= 10 * size:
            return f"{value / size:,.0f}{unit}"
    return f"{value:,.0f}"


def _steps(last: float, most: int) -> list[float]:
    """Round values from 0 to `last`, at most `most` gaps."""
    gap = max(last, 1e-9) / most
    unit = 10 ** math.floor(math.log10(gap))
    step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= gap * 0.999)
    return [step * number for number in range(int(last / step + 1e-9) + 1)]


def _x_tick(value: float, x: float, height: float, seconds: float) -> str:
    words = f"{value:g} {_unit(seconds)[1]}" if value == 0 else f"{value:g}"
    anchor = "start" if value == 0 else "middle"
    return f'<text class="tick" x="{x:.1f}" y="{height - 8:.0f}" text-anchor="{anchor}">{words}</text>'
