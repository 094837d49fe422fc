"""`emoji-ldm cluster check`: the manifests checked without a cluster, one line per finding."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb `check`; only the standard library is loaded until it runs."""
    verb = verbs.add_parser(
        "check",
        help="check the manifests without a cluster",
        description="Render overlays and check every object in them; prints file:line: object: what is wrong.",
        epilog="examples:\n  emoji-ldm cluster check\n  emoji-ldm cluster check --overlay dev kind",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument("--overlay", action="extend", nargs="+", metavar="NAME", help="overlays to check (all of them)")
    verb.add_argument("--manifests", type=Path, default=Path("k8s"), metavar="FOLDER", help="default: ./k8s")


def run(arguments: argparse.Namespace) -> int:
    """Print the findings of the overlays and return 1 if there are any.

    Raises:
        ConfigError: There are no manifests, no such overlay, no kubectl, or an overlay cannot be rendered.
    """
    import time

    from emoji_ldm.kubernetes.lint import check
    from emoji_ldm.kubernetes.lint.rendering import overlays, render

    began, found, num_objects = time.monotonic(), 0, 0
    names = arguments.overlay or overlays(arguments.manifests)
    for name in names:
        things = check(arguments.manifests, name)
        num_objects += len(render(arguments.manifests, name))
        found += len(things)
        sys.stdout.writelines(f"{finding}\n" for finding in things)
    took = time.monotonic() - began
    sys.stdout.write(f"{found} findings in {num_objects} objects of {', '.join(names)} ({took:.1f} s)\n")
    return 1 if found else 0
