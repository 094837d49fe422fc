"""`python -m tests.bench NAME... | --all [--quick] [--only ROW...]`: run benchmarks by name."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

NAMES = sorted(path.stem.replace("_", "-") for path in Path(__file__).parent.glob("[a-z]*.py"))


def main() -> int:
    """Run the named benchmarks; 1 if a floor does not hold."""
    options = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    options.add_argument("names", nargs="*", choices=[*NAMES, []], help=", ".join(NAMES))
    options.add_argument("--all", action="store_true", help="run every benchmark")
    options.add_argument("--quick", action="store_true", help="a smaller load, under a minute each where possible")
    options.add_argument("--only", nargs="+", default=[], help="rows of the benchmark `serve`, such as T3")
    arguments = options.parse_args()
    names = NAMES if arguments.all else arguments.names
    if not names:
        options.error("name a benchmark, or --all")
    if arguments.only and names != ["serve"]:
        options.error("--only names rows of `serve`")
    chosen = {"only": arguments.only} if arguments.only else {}
    results = [
        importlib.import_module(f"tests.bench.{name.replace('-', '_')}").run(quick=arguments.quick, **chosen)
        for name in names
    ]
    for name, result in zip(names, results, strict=True):
        show({"name": name, **result})
    return 0 if all(result["holds"] for result in results) else 1


def show(result: dict[str, Any]) -> None:
    """Print the table for people, then the JSON line for machines."""
    print(f"\n{result['name']}")
    for figure, value in result["figures"].items():
        bounds = [f"{kind} {result[kind][figure]}" for kind in ("floor", "target") if figure in result.get(kind, {})]
        print(f"  {figure:<34} {value!s:<28} {', '.join(bounds)}")
    print(json.dumps(result, default=str))


if __name__ == "__main__":
    sys.exit(main())
