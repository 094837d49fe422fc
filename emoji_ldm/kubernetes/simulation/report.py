"""`emoji-ldm cluster simulate`: plain values for `--json`, a table for the terminal, and a chart."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.simulation.scenario import load
from emoji_ldm.kubernetes.simulation.simulation import ClusterSimulation

MAX_OPEN = 12  # unfinished runs that the table lists
MAX_SAMPLES = 600  # of the chart
Values = dict[str, Any]


def run(words: Sequence[str], *, manifests: Path, output: Path | None, as_json: bool) -> int:
    """Simulate a scenario and print the result; returns 1 if a law was violated or work did not end.

    The first of `words` is a preset or file (`plan` if there is none), the others are overrides. Charts and the plain
    values are written to the folder `output`, if there is one.

    Raises:
        ConfigError: The scenario, an override or the overlay is wrong, or the folder cannot be written.
    """
    named = bool(words) and "=" not in words[0]  # else there are only overrides
    name, overrides = (words[0], list(words[1:])) if named else ("plan", list(words))
    result = summarize(ClusterSimulation(load(name, overrides, manifests)).run())
    if output:
        _write(result, output)
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        print_report(result, Console(markup=False))  # without markup, as names come from the user
    # A scenario that cannot be carried out is a failure for scripts, although the simulation itself worked.
    return 1 if any(result["violations"].values()) or result["open"] else 0


def summarize(simulation: ClusterSimulation) -> Values:
    """The result as `--json` prints it; times in seconds, money in US dollars."""
    scenario, fleet, runs, now = simulation.scenario, simulation.fleet, simulation.every_run, simulation.env.now
    billed = fleet.billed_usd()
    return {
        "about": scenario.about,
        "seed": scenario.seed,
        "seconds": round(now, 3),
        "cost_usd": round(billed, 2),
        "idle_usd": round(billed - sum(fleet.charged_usd.values()), 2),
        "prices": scenario.prices,
        "work": [_summarize_work(simulation, name) for name in scenario.work],
        "open": [{"name": run.name, "stage": run.stage, "reason": run.reason} for run in runs if run.stage != "done"],
        "pools": {
            name: {"nodes": pool.max_nodes, "limit": pool.spec.limit, "node_hours": round(pool.node_s(now) / 3600, 2)}
            for name, pool in fleet.pools.items()
        },
        "most": {"nodes": fleet.max_nodes, "pods": fleet.max_pods},
        "spot": {
            "nodes_lost": fleet.num_lost,
            "workers_moved": sum(run.num_interrupted for run in runs),
            "slowest_replacement_s": round(max((s for run in runs for s in run.replaced_s), default=0.0), 1),
            "storms": simulation.storms,
        },
        "violations": simulation.violations,
        "examples": simulation.examples,
        "samples": simulation.samples[:: len(simulation.samples) // MAX_SAMPLES + 1],
    }


def _summarize_work(simulation: ClusterSimulation, name: str) -> Values:
    """One row of the table: all copies of a piece of work together."""
    work, runs, fleet = simulation.scenario.work[name], simulation.runs[name], simulation.fleet
    begun = [run for run in runs if run.begun_at <= simulation.env.now]
    done, cost = sum(run.done for run in runs), sum(fleet.charged_usd[run.name] for run in runs)
    limited_s = defaultdict[str, float](float)
    for run in runs:
        for limit, seconds in run.limited_s.items():
            limited_s[limit] += seconds
    return {
        "name": name,
        "copies": len(runs),
        "unit": work.unit,
        "wanted": round(sum(work.total or run.requested for run in runs), 1),
        "done": round(done, 1),
        "begun_s": min((run.begun_at for run in begun), default=None),
        "ended_s": max(run.ended_at for run in runs) if all(run.stage == "done" for run in runs) else None,
        "queued_s": round(max(run.queued_s for run in runs), 1),
        # From quota to the last worker, for which `waitForPodsReady.timeout` of Kueue has to suffice.
        "slowest_start_s": round(max((run.begun_at - run.admitted_at for run in begun), default=0.0), 1),
        "gpu_hours": round(sum(fleet.gpu_s[run.name] for run in runs) / 3600, 2),
        "cost_usd": round(cost, 2),
        "usd_per_million": round(cost / done * 1e6, 2) if done else None,
        "limited_by": max(limited_s, key=limited_s.__getitem__, default="nothing yet"),
        "lost_work": round(sum(run.lost for run in runs), 1),
        "measured": work.measured,
        "source": work.source,
    }


def print_report(result: Values, console: Console) -> None:
    """Print time and cost of the work, its bottlenecks, what is unfinished, and whether the laws hold."""
    table = Table(title=result["about"], title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in ("work", "done", "waited", "took", "GPU-h", "cost", "$/million"):
        table.add_column(name, justify="left" if name == "work" else "right", no_wrap=True)
    for row in result["work"]:
        table.add_row(*_cells(row))
    console.print(table)
    for line in _lines(result):
        console.print(line, highlight=False)


def _lines(result: Values) -> list[str]:
    """What the report says below its table."""
    most, spot, rows, unfinished = result["most"], result["spot"], result["work"], result["open"]
    pools = (f"{name} {pool['nodes']:,} of {pool['limit']:,}" for name, pool in result["pools"].items())
    limited = defaultdict(list)
    for row in rows:
        limited[row["limited_by"]].append(row["name"])
    bottlenecks = (f"{', '.join(names)} by {limit}" for limit, names in limited.items())
    slowest = max(rows, key=lambda row: row["slowest_start_s"])
    violated = {law: number for law, number in result["violations"].items() if number}
    # An estimate is no better than its rates, so the reader is told which of them nobody has measured.
    assumed = [row["name"] for row in rows if not row["measured"]]
    idle = f"{usd(result['idle_usd'])} of it for nodes that start, are idle or are not full"
    lines = [
        f"\nin all {span(result['seconds'])}, {usd(result['cost_usd'])}: {idle}",
        f"at most {most['nodes']:,} nodes ({', '.join(pools)}) and {most['pods']:,} Pods",
        f"bounded most of the time: {'; '.join(bottlenecks)}",
        f"slowest start: {slowest['name']}, {span(slowest['slowest_start_s'])} from its quota to its last worker",
        spot["nodes_lost"]
        and f"{spot['nodes_lost']:,} spot nodes lost, {spot['workers_moved']:,} workers moved, "
        f"the slowest replaced after {span(spot['slowest_replacement_s'])}",
        *(f"{run['name']} {run['stage']}: {run['reason']}" for run in unfinished[:MAX_OPEN]),
        len(unfinished) > MAX_OPEN and f"... and {len(unfinished) - MAX_OPEN} more, see --json",
        f"laws violated: {violated} {result['examples']}"
        if violated
        else f"all laws held: {', '.join(result['violations'])}",
        assumed and f"assumed, not measured here: the rates of {', '.join(assumed)}; --json gives their sources",
        f"prices: {result['prices'] or 'none given'}",
    ]
    return [line for line in lines if line]


def _write(result: Values, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "simulation.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
        draw_chart(result["samples"], folder / "simulation.svg")
    except OSError as error:
        raise ConfigError(f"--output {folder}: {error.strerror}: name a folder that can be written") from None


def draw_chart(samples: list[Values], path: Path) -> None:
    """Draw nodes, GPUs, Pods, waiting jobs and cost over time."""
    import pandas as pd  # takes half a second, for which a run without --output need not wait

    frame = pd.json_normalize(samples).set_index("hours")
    # Counts change in steps: each value holds until the next sample.
    axes: Any = frame.plot(subplots=True, layout=(-1, 2), figsize=(11, 9), drawstyle="steps-post")
    for chart in axes.flat:
        chart.set_ylim(bottom=0)
    axes.flat[0].figure.savefig(path)


def _cells(row: Values) -> list[str]:
    """The cells of one row of the table."""
    begun, ended, per_million = row["begun_s"], row["ended_s"], row["usd_per_million"]
    # A service drops a few requests while replicas start; it still counts as having served all of them.
    complete = row["done"] >= row["wanted"] * 0.9999
    done = f"{row['done']:,.0f}" + ("" if complete else f" of {row['wanted']:,.0f}")
    return [
        row["name"] if row["copies"] == 1 else f"{row['name']} x {row['copies']}",
        f"{done} {row['unit']}",
        span(row["queued_s"]),
        span(ended - begun) if ended is not None else "not ended",
        f"{row['gpu_hours']:,.0f}" if row["gpu_hours"] else "-",
        usd(row["cost_usd"]),
        "-" if per_million is None else usd(per_million).lstrip("$"),
    ]


def span(seconds: float) -> str:
    """A duration for people, such as 42 s, 12 min, 9.6 h or 8.6 days."""
    # Each unit is used up to 100 of it (48 hours at most), so that the number has two digits that matter.
    for limit, size, unit in ((100, 1, "s"), (6000, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}" if size < 3600 else f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86400:.1f} days"


def usd(amount: float) -> str:
    """An amount in US dollars, with cents below 100."""
    return f"${amount:,.0f}" if amount >= 100 else f"${amount:,.2f}"
