"""`python -m emoji_ldm.kubernetes.simulate`: the command by itself."""

from __future__ import annotations

import argparse
import sys

from emoji_ldm.cluster.simulate.command import EPILOG, options, run
from emoji_ldm.errors import EmojiLdmError


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(
        prog="emoji-ldm cluster simulate", epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options(parser)
    try:
        return run(parser.parse_intermixed_args())
    except EmojiLdmError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
