"""`emoji-ldm cluster simulate`: how long and how much, before anything is paid for."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emoji_ldm.errors import ConfigError

if TYPE_CHECKING:
    from emoji_ldm.cluster.simulate.scenario import Scenario

EPILOG = """examples:
  emoji-ldm cluster simulate                                          # the four questions of plan.yaml
  emoji-ldm cluster simulate storm --output storm                     # with charts in storm/simulation.html
  emoji-ldm cluster simulate plan pools.gpu-spot.price_usd_h=9.5 work.caption.workers=128
  emoji-ldm cluster simulate mine.yaml --seed 3 --json
  emoji-ldm cluster simulate --published                              # against KubeRay's and Kueue's own figures
"""


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The verb and its options."""
    verb = verbs.add_parser(
        "simulate",
        help="how long work takes and what it costs on a cluster, from manifests, rates and prices",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options(verb)
    verb.set_defaults(run=run)


def options(verb: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    verb.add_argument(
        "scenario", nargs="?", default="plan", help="a preset (plan, storm, scale) or a YAML file; default: plan"
    )
    verb.add_argument(
        "words", nargs="*", metavar="path=value", help="such as work.caption.rate=3 or queues.train.strict=false"
    )
    verb.add_argument("--manifests", type=Path, default=Path("k8s"), help="the folder of overlays; default: ./k8s")
    verb.add_argument("--seed", type=int, help="of all chance; the same seed gives the same simulation")
    verb.add_argument(
        "--output", type=Path, metavar="FOLDER", help="write simulation.html (charts) and simulation.json there"
    )
    verb.add_argument("--json", action="store_true", help="print everything as JSON")
    verb.add_argument(
        "--published", action="store_true", help="compare with KubeRay's and Kueue's scale figures (half a minute)"
    )


def run(arguments: argparse.Namespace) -> int:
    """1 if a law was broken or work was given up.

    Raises:
        ConfigError: The scenario, an override or the overlay is wrong.
    """
    if arguments.published:
        if arguments.words or arguments.output or arguments.seed is not None:
            raise ConfigError("--published has loads of its own: it takes no overrides, --seed or --output")
        return compare(as_json=arguments.json)
    from emoji_ldm.cluster.simulate.results import results
    from emoji_ldm.cluster.simulate.world import World

    if "=" in arguments.scenario:  # only overrides were given
        arguments.words.insert(0, arguments.scenario)
        arguments.scenario = "plan"
    result = results(World(scenario(arguments)).run())
    if arguments.output:
        write(result, arguments.output)
    if arguments.json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        _tell(result, arguments.output)
    given_up = any(run["stage"] == "deactivated" for run in result["open"])
    return 1 if any(result["laws"].values()) or given_up else 0


def scenario(arguments: argparse.Namespace) -> Scenario:
    """As the arguments say."""
    from emoji_ldm.cluster.simulate.scenario import load

    overrides = list(arguments.words)
    if arguments.seed is not None:
        overrides.append(f"seed={arguments.seed}")
    return load(arguments.scenario, overrides, arguments.manifests)


def write(result: dict[str, Any], folder: Path) -> None:
    """The page and the values.

    Raises:
        ConfigError: The folder cannot be made.
    """
    from emoji_ldm.cluster.simulate.page import page

    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "simulation.html").write_text(page(result), encoding="utf-8")
        (folder / "simulation.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--output {folder}: {error.strerror}: name a folder that can be written") from None


def compare(*, as_json: bool) -> int:
    """Published figures beside ours, with errors."""
    from emoji_ldm.cluster.simulate.published import figures

    found = figures()
    if as_json:
        rows = [vars(figure) | {"error": round(figure.error, 4)} for figure in found]
        sys.stdout.write(json.dumps(rows) + "\n")
        return 0
    from rich.console import Console

    from emoji_ldm.cluster.simulate.table import compared

    compared(found, Console())
    return 0


def _tell(result: dict[str, Any], output: Path | None) -> None:
    from rich.console import Console

    from emoji_ldm.cluster.simulate.table import show

    console = Console(markup=False)  # names are the user's
    show(result, console)
    if output:
        console.print(f"charts: {output / 'simulation.html'}", highlight=False)
