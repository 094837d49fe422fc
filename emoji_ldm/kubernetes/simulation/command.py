"""`emoji-ldm cluster simulate`: how long work takes and what it costs, before anything is paid for."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from emoji_ldm.errors import ConfigError

EPILOG = """examples:
  emoji-ldm cluster simulate                                          # the four questions of plan.yaml
  emoji-ldm cluster simulate storm --output storm                     # with charts in storm/simulation.html
  emoji-ldm cluster simulate plan pools.gpu-spot.price_usd_h=9.5 work.caption.workers=128
  emoji-ldm cluster simulate mine.yaml --seed 3 --json
  emoji-ldm cluster simulate --published                              # against KubeRay's and Kueue's own figures
"""


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    verb = verbs.add_parser(
        "simulate",
        help="how long work takes and what it costs on a cluster, from manifests, rates and prices",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument(
        "scenario", nargs="?", default="plan", help="a preset (plan, storm, scale) or a YAML file; default: plan"
    )
    verb.add_argument(
        "words", nargs="*", metavar="path=value", help="such as work.caption.rate=3 or queues.train.strict=false"
    )
    verb.add_argument("--manifests", type=Path, default=Path("k8s"), help="the folder of overlays; default: ./k8s")
    verb.add_argument("--seed", type=int, help="of all randomness; the same seed gives the same simulation")
    verb.add_argument(
        "--output", type=Path, metavar="FOLDER", help="write simulation.html (charts) and simulation.json there"
    )
    verb.add_argument("--json", action="store_true", help="print everything as JSON")
    verb.add_argument("--published", action="store_true", help="compare with KubeRay's and Kueue's scale figures")
    verb.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Returns 1 if an invariant was violated or work was given up.

    Raises:
        ConfigError: The scenario, an override or the overlay is wrong, or SimPy is not installed.
    """
    try:
        import simpy  # noqa: F401
    except ImportError:
        raise ConfigError("cluster simulate needs SimPy: pip install 'emoji-ldm[cluster]'") from None
    if arguments.published:
        if arguments.words or arguments.output or arguments.seed is not None:
            raise ConfigError("--published has loads of its own: it takes no overrides, --seed or --output")
        return _compare(as_json=arguments.json)
    result = _simulate(arguments)
    if arguments.output:
        _write(result, arguments.output)
    if arguments.json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        _print(result, arguments.output)
    given_up = any(run["stage"] == "deactivated" for run in result["open"])
    return 1 if any(result["invariants"].values()) or given_up else 0


def _simulate(arguments: argparse.Namespace) -> dict[str, Any]:
    from emoji_ldm.kubernetes.simulation.report import summarize
    from emoji_ldm.kubernetes.simulation.scenario import load
    from emoji_ldm.kubernetes.simulation.simulation import ClusterSimulation

    name, overrides = arguments.scenario, list(arguments.words)
    if "=" in name:  # only overrides were given
        name, overrides = "plan", [name, *overrides]
    if arguments.seed is not None:
        overrides.append(f"seed={arguments.seed}")
    return summarize(ClusterSimulation(load(name, overrides, arguments.manifests)).run())


def _write(result: dict[str, Any], folder: Path) -> None:
    from emoji_ldm.kubernetes.simulation.report import render_page

    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "simulation.html").write_text(render_page(result), encoding="utf-8")
        (folder / "simulation.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--output {folder}: {error.strerror}: name a folder that can be written") from None


def _compare(*, as_json: bool) -> int:
    from rich.console import Console

    from emoji_ldm.kubernetes.simulation.calibration import figures
    from emoji_ldm.kubernetes.simulation.report import print_calibration

    found = figures()
    if as_json:
        rows = [vars(figure) | {"error": round(figure.error, 4)} for figure in found]
        sys.stdout.write(json.dumps(rows) + "\n")
    else:
        print_calibration(found, Console())
    return 0


def _print(result: dict[str, Any], output: Path | None) -> None:
    from rich.console import Console

    from emoji_ldm.kubernetes.simulation.report import print_report

    console = Console(markup=False)  # names come from the user
    print_report(result, console)
    if output:
        console.print(f"charts: {output / 'simulation.html'}", highlight=False)
