"""jsonschema, loaded without its checkers of formats.

Where the package rfc3987_syntax is installed, importing jsonschema builds 38 grammars of it: seconds of work. Formats
are not checked here (the rules do that), so it is kept out while jsonschema loads.
"""

from __future__ import annotations

import sys
from typing import Any

UNUSED = "rfc3987_syntax"
there = sys.modules.get(UNUSED)
modules: dict[str, Any] = sys.modules
if there is None:
    modules[UNUSED] = None  # what is None here counts as not installed
try:
    import jsonschema
finally:
    if there is None:
        del modules[UNUSED]

__all__ = ["jsonschema"]
