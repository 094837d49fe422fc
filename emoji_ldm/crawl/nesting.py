"""HTML that costs its parser more than it is worth: nesting is quadratic in time, open formatting in memory."""

from __future__ import annotations

import re

from emoji_ldm.crawl.outcomes import Outcome, Refused

TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)")
# Elements without an end tag, or whose end tag may be left out: their number says nothing about depth.
_FLAT = """area base br col embed hr img input link meta param source track wbr p li dt dd option optgroup
thead tbody tfoot tr td th colgroup caption rp rt body head html"""
_FORMATTING = "a b big code em font i nobr s small strike strong tt u"
FLAT, FORMATTING = frozenset(_FLAT.split()), frozenset(_FORMATTING.split())
MAX_DEPTH = 4_000  # takes 0.1 s; browsers stop at 512
MAX_COPIES = 4_000_000  # each paragraph repeats the formatting that was left open before it


def refuse_bomb(html: str) -> None:
    """Refused if elements are nested so, or left open so, that parsing them would take minutes or gigabytes."""
    depth = deepest = formatting = most = number = 0
    for end, name in TAG.findall(html):
        name, number, step = name.lower(), number + 1, -1 if end else 1
        if name not in FLAT:
            depth = max(depth + step, 0)
            deepest = max(deepest, depth)
        if name in FORMATTING:
            formatting = max(formatting + step, 0)
            most = max(most, formatting)
    if deepest > MAX_DEPTH or most * number > MAX_COPIES:
        raise Refused(Outcome.FAILED, f"its markup is no page but a trap: {deepest} elements inside each other")
