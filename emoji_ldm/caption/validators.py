"""Validators: what an engine's answer must satisfy to become a caption; each has its own reason.

The title comes from the listing and may be anything, so language, refusals and repetitions are sought in the rest of
the sentence only: a title such as "lol lol lol lol" or "I'm sorry" fails no caption.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from emoji_ldm.caption.engine_protocol import EngineAnswer
from emoji_ldm.caption.metadata import clean_title
from emoji_ldm.caption.sentence_format import parse_sentence
from emoji_ldm.schemas import CAPTION_ATTRIBUTES

MAX_FOREIGN_LETTERS = 0.1  # share of letters that may be of another script than Latin
# The language of fewer words cannot be told.
MIN_WORDS = 5
# Over 29,521 sentences that this project writes, the largest confidence in a wrong language was 0.51; sentences in
# Spanish, French, German, Portuguese, Italian, Dutch and Polish were recognised with 0.68 or more.
MIN_CONFIDENCE = 0.6
# A small model that loops repeats a phrase without end. Single words may stand up to three times in a row, as in "very,
# very, very"; phrases may stand twice.
MAX_REPEATS = {1: 4, 2: 3, 3: 3, 4: 3, 5: 3, 6: 3}  # {words in a phrase: repetitions in a row} that make a loop
MAX_EQUAL_CLAUSES = 3

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


@dataclass(frozen=True)
class Caption:
    """A caption, or why there is none."""

    text: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""  # empty if the caption is good


@dataclass(frozen=True)
class _Sentence:
    """An answer in the parts that the validators examine."""

    text: str
    body: str  # without the title
    finished: bool
    title: str
    attributes: Mapping[str, str]


def validate_answer(answer: EngineAnswer, title: str) -> Caption:
    """The caption in an answer, or the reason of the first validator that it fails.

    Args:
        answer: Of an engine.
        title: The listing's title of the image.
    """
    # Models often wrap the sentence in quotes, backticks or Markdown emphasis. Line breaks become spaces, since a
    # caption is one line.
    text = " ".join(answer.text.split()).strip("\"'`* ")
    attributes = parse_sentence(text) if answer.attributes is None else answer.attributes
    sentence = _Sentence(text, _without_title(text, title), answer.finished, title, attributes)
    # The generator stops at the first reason, so the language classifier, by far the slowest, sees only answers that
    # passed the cheap checks before it.
    reason = answer.error or next((reason for validator in VALIDATORS if (reason := validator(sentence))), "")
    return Caption(text, attributes, reason)


def _empty(sentence: _Sentence) -> str:
    return "" if _WORD.search(sentence.text) else "empty answer"


def _repeats(sentence: _Sentence) -> str:
    words = [word.lower() for word in _WORD.findall(sentence.body)]
    for size, times in MAX_REPEATS.items():
        loop = _loop(words, size, times)
        if loop:
            return f"repeats itself: {' '.join(loop)!r} {times} times in a row"
    # A letter that is repeated within a word makes no phrase, so the search for loops does not see it.
    if run := re.search(r"(\w)\1{9,}", sentence.body):
        return f"repeats itself: a row of {run[1]!r}"
    clauses = Counter(clause.strip().lower() for clause in re.split(r"[,.;!?]", sentence.body) if clause.strip())
    clause, count = clauses.most_common(1)[0] if clauses else ("", 0)
    return f"repeats itself: {clause!r} {count} times" if count >= MAX_EQUAL_CLAUSES else ""


def _truncated(sentence: _Sentence) -> str:
    return "" if sentence.finished else "truncated: no end within caption.max_new_tokens"


def _refusal(sentence: _Sentence) -> str:
    found = _REFUSAL.search(sentence.body)
    return f"a refusal: {found[0]!r}" if found else ""


def _language(sentence: _Sentence) -> str:
    """English by its script, and, with enough words, by a classifier of 140 languages."""
    # Words of the title are excused wherever they occur, because a model may repeat a Japanese or Spanish title in the
    # middle of an English sentence.
    title_words = set(_words(sentence.title))
    words = [word for word in _words(sentence.body) if word not in title_words]
    letters = [letter for word in words for letter in word if letter.isalpha()]
    num_foreign = sum(not unicodedata.name(letter, "").startswith("LATIN") for letter in letters)
    if num_foreign > MAX_FOREIGN_LETTERS * len(letters):
        return f"not English: {num_foreign} of {len(letters)} letters are of another script"
    if len(_words(sentence.body)) < MIN_WORDS:
        return ""
    code, confidence = language_identifier().classify(sentence.body)
    return f"not English: looks like {code}" if code != "en" and confidence >= MIN_CONFIDENCE else ""


@cache
def language_identifier() -> Any:
    """The classifier of py3langid, loaded at the first use: it takes about a second and 100 MB."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _only_title(sentence: _Sentence) -> str:
    content = set(_words(sentence.body)) - {"emoji", "a", "an", "the", "of", "is", "this", *_words(sentence.title)}
    return "" if content else "only the title, no description"


def _missing(sentence: _Sentence) -> str:
    missing = [name for name in CAPTION_ATTRIBUTES if name not in sentence.attributes]
    return f"not in the asked form: {', '.join(missing)} missing" if missing else ""


# The order decides which reason is recorded: a loop that was cut off is reported as a loop.
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
    """The text without the title, however its words are joined: "Blob cry" is "6205-blobCry.png"."""
    # Between any two letters of the title there may be other characters, since models split joined words, or join split
    # ones.
    title_pattern = r"[\W_]*".join(map(re.escape, re.findall(r"\w", clean_title(title))))
    return re.sub(rf"\b{title_pattern}\b", "", text, count=1, flags=re.IGNORECASE)


def _loop(words: Sequence[str], size: int, times: int) -> Sequence[str]:
    """The first phrase of `size` words that occurs `times` times in a row; [] if there is none."""
    for start in range(len(words) - size * times + 1):
        part = words[start : start + size]
        if all(words[start + step * size : start + (step + 1) * size] == part for step in range(1, times)):
            return part
    return []


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text))]
