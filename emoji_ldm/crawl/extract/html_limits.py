"""Limits on markup that would take minutes or gigabytes to parse."""

from __future__ import annotations

import re

from emoji_ldm.outcomes import Outcome, Rejected

TAG_PATTERN = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)")
# Elements without an end tag, or whose end tag may be omitted: their number says nothing about depth.
_VOID_NAMES = """area base br col embed hr img input link meta param source track wbr p li dt dd option optgroup
thead tbody tfoot tr td th colgroup caption rp rt body head html"""
_FORMATTING_NAMES = "a b big code em font i nobr s small strike strong tt u"
VOID_ELEMENTS, FORMATTING_ELEMENTS = frozenset(_VOID_NAMES.split()), frozenset(_FORMATTING_NAMES.split())
MAX_DEPTH = 4_000  # parses in 0.1 s; browsers stop at 512
MAX_COPIES = 4_000_000  # open formatting elements times tags


def reject_html_bomb(html: str) -> None:
    """Reject markup whose parsing would take minutes or gigabytes, by counting tags in the text.

    Nesting costs the parser quadratic time. A formatting element that is left open (<b>, <font>, ...) is repeated in
    every later paragraph (HTML standard, section 13.2.4.3, "The list of active formatting elements"), so the memory
    grows with the product of both numbers.
    """
    depth = deepest = formatting = most = number = 0
    for end, name in TAG_PATTERN.findall(html):
        name, number, step = name.lower(), number + 1, -1 if end else 1
        if name not in VOID_ELEMENTS:
            depth = max(depth + step, 0)
            deepest = max(deepest, depth)
        if name in FORMATTING_ELEMENTS:
            formatting = max(formatting + step, 0)
            most = max(most, formatting)
    if deepest > MAX_DEPTH or most * number > MAX_COPIES:
        raise Rejected(Outcome.FAILED, f"the markup is too expensive to parse: {deepest} nested elements")
