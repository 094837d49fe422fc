"""`python -m tests.layouts [LAYOUT...]`: serve sites of the corpus until Ctrl-C, to look at them with a browser."""

from __future__ import annotations

import argparse
import signal
from contextlib import ExitStack

from tests.layouts import LAYOUTS, VARIANTS, corpus_site


def main() -> None:
    """Serve the chosen layouts and print their addresses."""
    options = argparse.ArgumentParser(prog="python -m tests.layouts", description=__doc__)
    options.add_argument("layouts", nargs="*", help=f"of {', '.join(LAYOUTS)}; all if none is named")
    options.add_argument("--seed", type=int, default=0, help="another seed gives other sites of the same kinds")
    options.add_argument("--truth", action="store_true", help="print the truth too: page, title and URL of each emoji")
    arguments = options.parse_args()
    with ExitStack() as stack:
        for name in arguments.layouts or LAYOUTS:
            for variant in VARIANTS:
                site = stack.enter_context(corpus_site(name, variant, seed=arguments.seed))
                print(f"{name:<16} {variant}  {len(site.truth):>4} emoji  {site.entry}", flush=True)
                for tile in site.truth if arguments.truth else ():
                    print(f"    {tile.page}  {tile.title}  {tile.url[:120]}")
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
