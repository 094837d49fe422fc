"""The results of a simulation as text for a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from emoji_ldm.cluster.simulate.published import Figure

MOST_OPEN = 12


def show(result: dict[str, Any], console: Console) -> None:
    """What it took and cost, what still waits, and whether the laws held; `console` takes texts as they are."""
    table = Table(
        title=result["about"], title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    table.add_column("work", no_wrap=True)
    for name in ("done", "waited", "took", "GPU-h", "cost", "$/million"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in result["work"]:
        table.add_row(*_row(row))
    console.print(table)
    idle = f"{usd(result['idle_usd'])} of it for nodes that start, wait or are not full"
    console.print(f"\nin all {span(result['seconds'])}, {usd(result['cost_usd'])}: {idle}")
    most, spot = result["most"], result["spot"]
    console.print(
        f"at most {most['nodes']:,} nodes and {most['pods']:,} Pods; prices: {result['prices'] or 'none given'}"
    )
    if spot["nodes_lost"]:
        moved = f"{spot['workers_moved']:,} workers moved"
        slowest = f"the slowest replaced after {span(spot['slowest_replacement_s'])}"
        console.print(f"{spot['nodes_lost']:,} spot nodes lost, {moved}, {slowest}")
    _open(result["open"], console)
    bad = {law: count for law, count in result["laws"].items() if count}
    if bad:
        console.print(f"laws broken: {bad} {result['examples']}", style="red")
    else:
        console.print(
            f"all laws held ({', '.join(result['laws'])}); {result['pods']['created']:,} Pods, each ended once"
        )
    assumed = [row["name"] for row in result["work"] if not row["measured"]]
    if assumed:
        console.print(f"assumed, not measured here: the rates of {', '.join(assumed)}; --json gives their sources")


def _row(row: dict[str, Any]) -> list[str]:
    name = row["name"] if row["copies"] == 1 else f"{row['name']} x {row['copies']}"
    whole = row["done"] >= row["wanted"] * 0.9999
    done = (
        f"{count(row['done'])} {row['unit']}"
        if whole
        else f"{count(row['done'])} of {count(row['wanted'])} {row['unit']}"
    )
    begun, ended = row["begun_s"], row["ended_s"]
    took = span(ended - begun) if ended is not None and begun is not None else "not ended"
    per = usd(row["usd_per_million"]).lstrip("$") if row["usd_per_million"] is not None else "-"
    gpus = f"{row['gpu_hours']:,.0f}" if row["gpu_hours"] else "-"
    return [name, done, span(row["queued_s"]), took, gpus, usd(row["cost_usd"]), per]


def _open(runs: list[dict[str, Any]], console: Console) -> None:
    for run in runs[:MOST_OPEN]:
        share = "" if run["share_done"] is None else f" ({run['share_done']:.0%} done)"
        console.print(f"{run['name']} {run['stage']}{share}: {run['reason']}", highlight=False)
    if len(runs) > MOST_OPEN:
        console.print(f"... and {len(runs) - MOST_OPEN} more, see --json")


def span(seconds: float) -> str:
    """Such as 42 s, 12 min, 9.6 h, 8.6 days."""
    for most, size, unit in ((100, 1, "s"), (6000, 60, "min"), (172_800, 3600, "h")):
        if seconds < most:
            return f"{seconds / size:.0f} {unit}" if size < 3600 else f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86400:.1f} days"


def count(number: float) -> str:
    """Such as 999,061 or 10.0 M."""
    for size, unit in ((1e9, "G"), (1e6, "M")):
        if number >= 9.995 * size or (number >= size and unit == "G"):
            return f"{number / size:,.2f} {unit}"
    return f"{number:,.0f}"


def usd(amount: float) -> str:
    """Dollars, with cents where they are worth a look."""
    return f"${amount:,.0f}" if amount >= 100 else f"${amount:,.2f}"


def compared(figures: list[Figure], console: Console) -> None:
    """Published figures beside ours."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("figure", "published", "simulated", "error", "sets"):
        table.add_column(name, justify="left" if name in ("figure", "sets") else "right")
    for figure in figures:
        error = f"{figure.error:+.1%}"
        table.add_row(
            figure.what,
            f"{figure.published_s:,.1f} s",
            f"{figure.simulated_s:,.1f} s",
            error,
            figure.sets or "a prediction",
        )
    console.print(table)
