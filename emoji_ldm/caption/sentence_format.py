"""The form of caption sentences: written from attributes, and parsed back into them.

    {title} emoji with a {head shape}, {eyes} eyes, {mouth} mouth, {expression} expression,
    {skin colour} skin color, {action}, with a {background} background.

An attribute that an image does not have, or that was not examined, is "none", and its clause is left out of the
sentence rather than claim something. "no eyes" is parsed as "none". A tag of the listing that the title does not
contain follows the title: "Polar bear emoji from panda".
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from emoji_ldm.schemas import CAPTION_ATTRIBUTES

NONE = "none"

# The title may hold anything, commas and "with" included, so the sentence is entered at the first "emoji" that is
# followed by a comma or by "with".
_OPENING = re.compile(
    r"^.*?\bemoji\b(?: from [^,.]+?)?(?:, | with (?P<head>(?:an? )?[^,]+?)(?:, |[.]?$))(?P<rest>.*)$", re.IGNORECASE
)
# A clause with one of these endings states the attribute. Only the action has none, and is found by its place.
_ENDINGS = {
    "eyes": re.compile(r"^(.*?)\s*\beyes?$", re.IGNORECASE),
    "mouth": re.compile(r"^(.*?)\s*\bmouth$", re.IGNORECASE),
    "expression": re.compile(r"^(.*?)\s*\bexpression$", re.IGNORECASE),
    "skin_color": re.compile(r"^(.*?)\s*\bskin (?:colou?r|tone)$", re.IGNORECASE),
    "background": re.compile(r"^(?:with |on |against )?(?:an? |the )?(.*?)\s*\bbackground$", re.IGNORECASE),
}
_LEADING = re.compile(r"^(?:and |with |has |having )?(?:an? |the )?", re.IGNORECASE)
# Models write "no mouth" although the clause could be left out. Both say the same, so both are stored as "none".
_ABSENT = re.compile(
    r"^(?:no|none|n/a|not visible|without)?$|^(?:no|without)(?: (?:particular|visible|specific))? (?:action|head)$",
    re.IGNORECASE,
)


def write_sentence(title: str, attributes: Mapping[str, str], tag: str = "") -> str:
    """The sentence for a title and its attributes; clauses of "none" are left out."""
    return sentence_variants(title, attributes, tag)[0]


def sentence_variants(title: str, attributes: Mapping[str, str], tag: str = "") -> list[str]:
    """Different sentences that state the same: the form of the prompt first, then other orders of its clauses."""
    known = {name: attributes.get(name, NONE) for name in CAPTION_ATTRIBUTES}
    name, scene = f"{title} emoji{f' from {tag}' if tag else ''}", f"{with_article(known['background'])} background"
    head, behind = (known[part] != NONE for part in ("head_shape", "background"))
    clauses = {
        "eyes": f"{known['eyes']} eyes",
        "mouth": f"{known['mouth']} mouth",
        "expression": f"{known['expression']} expression",
        "skin_color": f"{known['skin_color']} skin color",
        "action": known["action"],
    }
    middle = [clause for part, clause in clauses.items() if known[part] != NONE]
    shape, forms = with_article(known["head_shape"]), list[str]()
    # Each order gives four forms, eight in all, fewer if clauses are missing.
    for order in (middle, middle[::-1]):
        with_shape = [f"{name} with {shape}" if head else name, *order]
        forms.append(", ".join([*with_shape, *([f"with {scene}"] if behind else [])]) + ".")
        if head or middle:
            parts = ", ".join([*([shape] if head else []), *order])
            forms.append(f"{name}: {parts}{f', on {scene}' if behind else ''}.")
            forms.append(f"This is the {name}, with {parts}{f' and {scene}' if behind else ''}.")
        if behind:
            forms.append(f"On {scene}, {', '.join(with_shape)}.")
    return list(dict.fromkeys(forms))


def parse_sentence(sentence: str) -> dict[str, str]:
    """The attributes that a sentence states; those that it does not mention are not in the result.

    Commas inside a clause are preserved: in "round head, large, dark eyes" the eyes are "large, dark".
    """
    opening = _OPENING.match(" ".join(sentence.split()))
    if not opening:
        return {}
    clauses = re.split(r"\s*,\s*", opening["rest"].strip().rstrip(".").strip())
    found = {"head_shape": _value(opening["head"])} if opening["head"] else {}
    # Clauses without a known ending: the beginning of the next attribute ("large" in "large, dark eyes"), or, before
    # the background and at the end, the action, which has no ending of its own.
    pending = list[str]()
    for clause in clauses:
        name, text = _ending(clause, found)
        if name == "background" and pending:
            found["action"], pending = _value(", ".join(pending)), []
        if name:
            found[name], pending = _value(", ".join([*pending, text])), []
        elif clause:
            pending.append(clause)
    if pending:
        found.setdefault("action", _value(", ".join(pending)))
    return {name: found[name] for name in CAPTION_ATTRIBUTES if name in found}


def with_article(noun: str) -> str:
    """The noun with "a" or "an" before it."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def _ending(clause: str, found: Mapping[str, str]) -> tuple[str, str]:
    """Attribute and value of a clause; ("", "") if it has none of the five fixed endings."""
    for name, pattern in _ENDINGS.items():
        match = pattern.match(clause)
        # The first clause of a kind counts. A second one, such as "another pair of eyes", is taken as text without an
        # ending.
        if match and name not in found:
            return name, match[1]
    return "", ""


def _value(text: str) -> str:
    bare = _LEADING.sub("", text.strip(), count=1).strip()
    return NONE if _ABSENT.match(bare) else bare
