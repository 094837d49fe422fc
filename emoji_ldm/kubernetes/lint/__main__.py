"""`python -m emoji_ldm.kubernetes.lint [--overlay NAME ...]`, the same as `emoji-ldm cluster check`."""

from __future__ import annotations

import argparse
import sys

from emoji_ldm.errors import EmojiLdmError
from emoji_ldm.kubernetes.lint.command import add, run

top = argparse.ArgumentParser(prog="python -m emoji_ldm.kubernetes.lint")
add(top.add_subparsers(required=True))
try:
    sys.exit(run(top.parse_args(["check", *sys.argv[1:]])))
except EmojiLdmError as error:
    sys.stderr.write(f"error: {error}\n")
    sys.exit(error.exit_code)
