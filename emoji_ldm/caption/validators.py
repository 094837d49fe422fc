"""What must hold for an answer to become a caption; each gate has its own reason.

The title is the listing's and may be anything, so language, refusals and repeats are sought
beside it only: a title such as "lol lol lol lol" or "I'm sorry" fails no caption.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from emoji_ldm.caption.engine_protocol import EngineAnswer
from emoji_ldm.caption.metadata import clean_title
from emoji_ldm.caption.sentence_format import parse_sentence
from emoji_ldm.schemas import CAPTION_ATTRIBUTES

MAX_FOREIGN = 0.1  # share of letters that may be of another script
MIN_WORDS = 5  # fewer words tell no language
MAX_REPEATS = {1: 4, 2: 3, 3: 3, 4: 3, 5: 3, 6: 3}  # {words: times in a row} that make a loop
SAME_CLAUSES = 3

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_REFUSAL = re.compile(
    r"\b(?:i['’]?m|i am|we are|we['’]re)\s+(?:\w+\s+)?(?:sorry|unable|not able|afraid)\b"
    r"|\bi\s+(?:can(?:no|['’])?t|could not|couldn['’]t|won['’]?t|do not|don['’]t)\s+"
    r"(?:\w+\s+)?(?:see|view|help|assist|describe|identify|provide|determine|access|process|have)\b"
    r"|\bas an? (?:ai|language model|assistant)\b|\b(?:sorry|apolog(?:y|ies|i[sz]e)), (?:but )?i\b"
    r"|\b(?:cannot|can['’]?t|unable to) (?:see|view|describe|help|assist|identify) (?:the|this|that|with|an?|any)\b"
    r"|\bno image (?:was|is|has been)\b|\b(?:provide|upload|share) (?:an?|the|more)\b.*\bimage\b",
    re.IGNORECASE,
)
_ENGLISH = (
    "a an the and or with without of on in at to is are it its this that no one two from by has have shows show "
    "eyes eye mouth expression skin color colour tone head shape background white black"
)
_FOREIGN = {
    "Spanish": "el la los las un una con de y en ojos boca fondo sin que es su cara piel cabeza del muestra",
    "French": "le la les un une des avec et du de dans yeux bouche fond sans sur est visage peau tête blanc qui",
    "German": "der die das ein eine einen mit und ist auf augen mund hintergrund ohne gesicht haut kopf einem weißen",
    "Portuguese": "o os as um uma com de e em olhos boca fundo sem que é rosto pele cabeça do da branco",
    "Italian": "il lo gli le un una con di e occhi bocca sfondo senza che è viso pelle testa su della bianco",
    "Dutch": "de het een met en van ogen mond achtergrond zonder gezicht huid hoofd op is witte",
}
_STOP_WORDS = {language: frozenset(words.split()) for language, words in {"English": _ENGLISH, **_FOREIGN}.items()}


@dataclass(frozen=True)
class Caption:
    """A caption, or why there is none."""

    text: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""  # empty if the caption is good


@dataclass(frozen=True)
class _Sentence:
    """What the gates look at."""

    text: str
    body: str  # without the title
    ended: bool
    title: str
    attributes: Mapping[str, str]


def validate_answer(answer: EngineAnswer, title: str) -> Caption:
    """The caption that an answer is, or the reason of the first gate that it does not pass."""
    text = " ".join(answer.text.split()).strip("\"'`* ")
    attributes = parse_sentence(text) if answer.attributes is None else answer.attributes
    sentence = _Sentence(text, _without_title(text, title), answer.ended, title, attributes)
    reason = answer.fault or next((reason for gate in VALIDATORS if (reason := gate(sentence))), "")
    return Caption(text, attributes, reason)


def _empty(sentence: _Sentence) -> str:
    return "" if _WORD.search(sentence.text) else "empty answer"


def _repeats(sentence: _Sentence) -> str:
    words = [word.lower() for word in _WORD.findall(sentence.body)]
    for size, times in MAX_REPEATS.items():
        loop = _loop(words, size, times)
        if loop:
            return f"repeats itself: {' '.join(loop)!r} {times} times in a row"
    if run := re.search(r"(\w)\1{9,}", sentence.body):
        return f"repeats itself: a row of {run[1]!r}"
    clauses = Counter(clause.strip().lower() for clause in re.split(r"[,.;!?]", sentence.body) if clause.strip())
    clause, count = clauses.most_common(1)[0] if clauses else ("", 0)
    return f"repeats itself: {clause!r} {count} times" if count >= SAME_CLAUSES else ""


def _truncated(sentence: _Sentence) -> str:
    return "" if sentence.ended else "truncated: no end within caption.max_new_tokens"


def _refusal(sentence: _Sentence) -> str:
    found = _REFUSAL.search(sentence.body)
    return f"a refusal: {found[0]!r}" if found else ""


def _language(sentence: _Sentence) -> str:
    """English by its letters and by its most frequent words."""
    known = set(_words(sentence.title))
    letters = [letter for word in _words(sentence.body) if word not in known for letter in word if letter.isalpha()]
    foreign = sum(not unicodedata.name(letter, "").startswith("LATIN") for letter in letters)
    if foreign > MAX_FOREIGN * len(letters):
        return f"not English: {foreign} of {len(letters)} letters are of another script"
    words = _words(sentence.body)
    hits = {language: sum(word in stops for word in words) for language, stops in _STOP_WORDS.items()}
    likely = max(hits, key=lambda language: hits[language])  # the first of equals: English
    if hits[likely] >= 2 and likely != "English":
        return f"not English: looks like {likely}"
    return "not English: hardly any English word" if len(words) >= MIN_WORDS and not hits["English"] else ""


def _only_title(sentence: _Sentence) -> str:
    told = set(_words(sentence.body)) - {"emoji", "a", "an", "the", "of", "is", "this", *_words(sentence.title)}
    return "" if told else "only the title, no description"


def _missing(sentence: _Sentence) -> str:
    missing = [name for name in CAPTION_ATTRIBUTES if name not in sentence.attributes]
    return f"not in the asked form: {', '.join(missing)} missing" if missing else ""


VALIDATORS: tuple[Callable[[_Sentence], str], ...] = (
    _empty,
    _repeats,
    _truncated,
    _refusal,
    _language,
    _only_title,
    _missing,
)


def _without_title(text: str, title: str) -> str:
    """The text without the title, however its words are cut: "Blob cry" is "6205-blobCry.png"."""
    title_again = r"[\W_]*".join(map(re.escape, re.findall(r"\w", clean_title(title))))
    return re.sub(rf"\b{title_again}\b", "", text, count=1, flags=re.IGNORECASE)


def _loop(words: Sequence[str], size: int, times: int) -> Sequence[str]:
    """The first run of `size` words that stands `times` times in a row; [] if none does."""
    for start in range(len(words) - size * times + 1):
        part = words[start : start + size]
        if all(words[start + step * size : start + (step + 1) * size] == part for step in range(1, times)):
            return part
    return []


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text))]
