"""`emoji-ldm cluster simulate`: how long work takes and what it costs, before anything is paid for."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emoji_ldm.errors import ConfigError


def run(words: Sequence[str], *, manifests: Path, seed: int | None, output: Path | None, as_json: bool) -> int:
    """Simulate a scenario and print the result; returns 1 if an invariant was violated or work was given up.

    Args:
        words: A preset (plan by default) or YAML file, then overrides such as `work.caption.rate=3`.
        manifests: Folder of the overlays.
        seed: Of all randomness; None takes the scenario's.
        output: Folder for `simulation.html` and `simulation.json`; None writes none.
        as_json: Print JSON instead of tables.

    Raises:
        ConfigError: The scenario, an override or the overlay is wrong, or SimPy is not installed.
    """
    _require_simpy()
    result = _simulate(words, manifests, seed)
    if output:
        _write(result, output)
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        _print(result, output)
    # A scenario that cannot be carried out is a failure for scripts, although the simulation itself worked.
    given_up = any(run["stage"] == "deactivated" for run in result["open"])
    return 1 if any(result["invariants"].values()) or given_up else 0


def _require_simpy() -> None:
    # SimPy belongs to the optional dependencies of cluster commands, so its absence is a mistake of installation and
    # not of the program.
    try:
        import simpy  # noqa: F401
    except ImportError:
        raise ConfigError("cluster simulate needs SimPy: pip install 'emoji-ldm[cluster]'") from None


def _simulate(words: Sequence[str], manifests: Path, seed: int | None) -> dict[str, Any]:
    # Imported late, because building the command line imports this module and most commands need neither SimPy nor
    # Rich.
    from emoji_ldm.kubernetes.simulation.report import summarize
    from emoji_ldm.kubernetes.simulation.scenario import load
    from emoji_ldm.kubernetes.simulation.simulation import ClusterSimulation

    named = bool(words) and "=" not in words[0]  # else there are only overrides
    name, overrides = (words[0], list(words[1:])) if named else ("plan", list(words))
    if seed is not None:
        overrides.append(f"seed={seed}")
    return summarize(ClusterSimulation(load(name, overrides, manifests)).run())


def _write(result: dict[str, Any], folder: Path) -> None:
    from emoji_ldm.kubernetes.simulation.report import render_page

    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "simulation.html").write_text(render_page(result), encoding="utf-8")
        (folder / "simulation.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--output {folder}: {error.strerror}: name a folder that can be written") from None


def compare(*, as_json: bool) -> int:
    """Print KubeRay's and Kueue's published scale figures beside the simulated ones."""
    _require_simpy()
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
