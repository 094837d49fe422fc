"""Presents the result of a simulation: plain values for `--json`, a table for the terminal, and a web page."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
from rich.console import Console
from rich.table import Table

from emoji_ldm.kubernetes.simulation.calibration import PublishedFigure
from emoji_ldm.kubernetes.simulation.job_model import RayClusterRun, RunPhase
from emoji_ldm.kubernetes.simulation.scenario import WorkloadSpec
from emoji_ldm.kubernetes.simulation.simulation import ClusterSimulation

MAX_OPEN = 12  # unfinished runs that the table lists
# Coordinates of the SVG, not pixels: the page scales it to its own width.
PLOT_WIDTH, PLOT_HEIGHT = 560.0, 160.0
Values = dict[str, Any]


def summarize(simulation: ClusterSimulation) -> Values:
    """The result as `--json` prints it; times in seconds, money in US dollars."""
    ledger, runs, fleet = simulation.ledger, simulation.every_run, simulation.fleet
    return {
        "about": simulation.scenario.about,
        "seed": simulation.scenario.seed,
        "seconds": round(simulation.env.now, 3),
        "cost_usd": round(ledger.billed_usd, 2),
        "idle_usd": round(ledger.billed_usd - sum(ledger.charged_usd.values()), 2),
        "prices": simulation.scenario.prices,
        "work": [_summarize_work(simulation, work) for work in simulation.scenario.work],
        "open": [_summarize_open(run) for run in runs if run.phase not in (RunPhase.DONE, RunPhase.FINISHING)],
        "most": {"nodes": ledger.max_nodes, "pods": ledger.max_pods},
        "node_hours": {name: round(seconds / 3600, 2) for name, seconds in sorted(ledger.node_s.items())},
        "pods": {"created": simulation.invariants.num_created, "ended": simulation.invariants.num_ended},
        "spot": {
            "nodes_lost": fleet.num_lost,
            "workers_moved": sum(run.num_interrupted for run in runs),
            "slowest_replacement_s": round(max((s for run in runs for s in run.replaced_s), default=0.0), 1),
            "storms": simulation.storms,
        },
        "invariants": simulation.invariants.violations,
        "examples": simulation.invariants.examples,
        "samples": [asdict(sample) for sample in ledger.samples],
    }


def _summarize_work(simulation: ClusterSimulation, work: WorkloadSpec) -> Values:
    """One row of the table: all copies of a piece of work together."""
    runs, ledger, now = simulation.runs[work.name], simulation.ledger, simulation.env.now
    ended = [run.ended_at for run in runs if run.phase in (RunPhase.DONE, RunPhase.FINISHING)]
    done = sum(run.progress.done for run in runs)
    cost = sum(ledger.charged_usd[run.name] for run in runs)
    # A run that still waits has waited since its last submission, which no event has added up yet.
    waited = [run.queued_s + (now - run.waiting_since) * (run.phase is RunPhase.PENDING) for run in runs]
    wanted = sum(run.progress.requested if work.total is None else work.total for run in runs)
    return {
        "name": work.name,
        "copies": len(runs),
        "ended": len(ended),
        "unit": work.unit,
        "wanted": round(wanted, 1),
        "done": round(done, 1),
        "submitted_s": min((run.submitted_at for run in runs if run.submitted_at >= 0), default=None),
        "begun_s": min((run.begun_at for run in runs if run.begun_at >= 0), default=None),
        "ended_s": max(ended) if len(ended) == len(runs) else None,
        "queued_s": round(max(waited), 1),
        "workers": sum(group.min_replicas for group in runs[0].workers),
        "gpu_hours": round(sum(ledger.gpu_s[run.name] for run in runs) / 3600, 2),
        "cost_usd": round(cost, 2),
        "usd_per_million": round(cost / done * 1e6, 2) if done else None,
        "evicted": sum(run.num_evicted for run in runs),
        "restarts": sum(run.num_restarts for run in runs),
        "lost_work": round(sum(run.progress.lost for run in runs), 1),
        "measured": work.measured,
        "source": work.source,
    }


def _summarize_open(run: RayClusterRun) -> Values:
    """A run that has not ended, with the reason."""
    reason = run.workload.reason if run.phase is RunPhase.PENDING else run.reason
    if run.phase is RunPhase.SCHEDULED and run.spec.after:
        reason = f"waits for {', '.join(run.spec.after)}"
    # A service has no total, so it has no share either.
    share = run.progress.done / run.spec.total if run.spec.total else None
    return {"name": run.name, "stage": str(run.phase), "reason": reason or "running", "share_done": share}


def print_report(result: Values, console: Console) -> None:
    """Print time and cost of the work, what is unfinished, and whether the invariants hold."""
    table = Table(
        title=result["about"], title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for name in ("work", "done", "waited", "took", "GPU-h", "cost", "$/million"):
        table.add_column(name, justify="left" if name == "work" else "right", no_wrap=True)
    for row in result["work"]:
        cells = work_cells(row)
        table.add_row(*(cells[name] for name in ("name", "done", "waited", "took", "GPU-hours", "cost", "per million")))
    console.print(table)
    most, spot = result["most"], result["spot"]
    idle = f"{usd(result['idle_usd'])} of it for nodes that start, are idle or are not full"
    console.print(f"\nin all {span(result['seconds'])}, {usd(result['cost_usd'])}: {idle}")
    prices = result["prices"] or "none given"
    console.print(f"at most {most['nodes']:,} nodes and {most['pods']:,} Pods; prices: {prices}")
    if spot["nodes_lost"]:
        moved = f"{spot['workers_moved']:,} workers moved"
        slowest = f"the slowest replaced after {span(spot['slowest_replacement_s'])}"
        console.print(f"{spot['nodes_lost']:,} spot nodes lost, {moved}, {slowest}")
    for run in result["open"][:MAX_OPEN]:
        share = "" if run["share_done"] is None else f" ({run['share_done']:.0%} done)"
        console.print(f"{run['name']} {run['stage']}{share}: {run['reason']}", highlight=False)
    if len(result["open"]) > MAX_OPEN:
        console.print(f"... and {len(result['open']) - MAX_OPEN} more, see --json")
    _print_trust(result, console)


def _print_trust(result: Values, console: Console) -> None:
    """Print how far the figures can be trusted: violated invariants, and rates that are assumptions."""
    if violated := {name: number for name, number in result["invariants"].items() if number}:
        console.print(f"invariants violated: {violated} {result['examples']}", style="red")
    else:
        names = ", ".join(result["invariants"])
        console.print(f"all invariants held ({names}); {result['pods']['created']:,} Pods, each ended once")
    # An estimate is no better than its rates, so the reader is told which of them nobody has measured.
    if assumed := [row["name"] for row in result["work"] if not row["measured"]]:
        console.print(f"assumed, not measured here: the rates of {', '.join(assumed)}; --json gives their sources")


def print_calibration(figures: list[PublishedFigure], console: Console) -> None:
    """Print published figures beside simulated ones."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("figure", "published", "simulated", "error", "sets"):
        table.add_column(name, justify="left" if name in ("figure", "sets") else "right")
    for figure in figures:
        times = (f"{figure.published_s:,.1f} s", f"{figure.simulated_s:,.1f} s")
        table.add_row(figure.name, *times, f"{figure.error:+.1%}", figure.sets or "a prediction")
    console.print(table)


def render_page(result: Values) -> str:
    """The result as a self-contained web page: charts are inline SVG, without scripts or external files."""
    # Names and sources come from the scenario file, so they are escaped.
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    samples = result["samples"]
    # A pool that never had a node would be a flat line at zero.
    pools = [name for name in samples[-1]["nodes"] if any(sample["nodes"][name] for sample in samples)]
    plots = [
        _plot("Nodes", samples, {name: [sample["nodes"][name] for sample in samples] for name in pools}),
        _plot("GPUs", samples, {key[5:]: [s[key] for s in samples] for key in ("gpus_there", "gpus_used")}),
        _plot("Jobs that wait for quota", samples, {"waiting": [sample["pending"] for sample in samples]}),
        _plot("US dollars so far", samples, {"cost": [sample["cost_usd"] for sample in samples]}),
    ]
    rows = [work_cells(row) | {"source": row["source"] or "no source given"} for row in result["work"]]
    bars = [_bar(row, max(result["seconds"], 1.0)) for row in result["work"] if row["submitted_s"] is not None]
    violated = {name: number for name, number in result["invariants"].items() if number}
    return template.render(result=result, rows=rows, bars=bars, plots=plots, violated=violated, span=span, usd=usd)


def _plot(title: str, samples: list[Values], lines: dict[str, list[float]]) -> Values:
    """Step charts in a box of `PLOT_WIDTH` x `PLOT_HEIGHT`: each value holds until the next sample."""
    # A chart library would draw smooth or log-scaled lines; nodes and dollars are counts that change in steps.
    top = max([1.0, *(value for values in lines.values() for value in values)])
    width = PLOT_WIDTH / max(samples[-1]["time_s"], 1)
    # H and V draw to an absolute x and y, which yields the steps; y grows downwards in SVG.
    paths = {}
    for name, values in lines.items():
        steps = (
            f"H{s['time_s'] * width:.1f}V{(1 - v / top) * PLOT_HEIGHT:.1f}"
            for s, v in zip(samples, values, strict=True)
        )
        paths[name] = f"M0 {PLOT_HEIGHT:.0f}{''.join(steps)}"
    return {"title": title, "paths": paths, "top": f"{top:,.0f}", "end": span(samples[-1]["time_s"])}


def _bar(row: Values, seconds: float) -> Values:
    """When the work waited and ran, in percent of the simulated time."""
    ended = seconds if row["ended_s"] is None else row["ended_s"]
    # Work that never began has only a waiting part, work that never ended reaches the right edge.
    begun = ended if row["begun_s"] is None else row["begun_s"]
    times = {"waits": row["submitted_s"], "runs": begun, "ends": ended}
    return {"name": row["name"], **{name: round(100 * time / seconds, 2) for name, time in times.items()}}


def work_cells(row: Values) -> dict[str, str]:
    """The cells of one row as text, by column."""
    begun, ended, per_million = row["begun_s"], row["ended_s"], row["usd_per_million"]
    # A service drops a few requests while replicas start; it still counts as having served all of them.
    complete = row["done"] >= row["wanted"] * 0.9999
    done = count(row["done"]) if complete else f"{count(row['done'])} of {count(row['wanted'])}"
    return {
        "name": row["name"] if row["copies"] == 1 else f"{row['name']} x {row['copies']}",
        "done": f"{done} {row['unit']}",
        "waited": span(row["queued_s"]),
        "took": span(ended - begun) if ended is not None and begun is not None else "not ended",
        "GPU-hours": f"{row['gpu_hours']:,.0f}" if row["gpu_hours"] else "-",
        "cost": usd(row["cost_usd"]),
        "per million": "-" if per_million is None else usd(per_million).lstrip("$"),
        "rate": "measured" if row["measured"] else "assumed",
    }


def span(seconds: float) -> str:
    """A duration for people, such as 42 s, 12 min, 9.6 h or 8.6 days."""
    # Each unit is used up to 100 of it (48 hours at most), so that the number has two digits that matter.
    for limit, size, unit in ((100, 1, "s"), (6000, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}" if size < 3600 else f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86400:.1f} days"


def count(number: float) -> str:
    """A number for people, such as 999,061 or 10.00 M."""
    for size, unit in ((1e9, "G"), (1e6, "M")):
        if number >= 9.995 * size or (number >= size and unit == "G"):
            return f"{number / size:,.2f} {unit}"
    return f"{number:,.0f}"


def usd(amount: float) -> str:
    """An amount in US dollars, with cents below 100."""
    return f"${amount:,.0f}" if amount >= 100 else f"${amount:,.2f}"
