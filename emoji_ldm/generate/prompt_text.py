"""What a model can read of a prompt: emoji characters become words, and what it will not understand is said.

This module needs no torch, as planning uses it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from emoji_ldm.caption.validators import language_identifier
from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.pipeline_kinds import pipeline_kind

# Pictographs, and what joins or varies them. Other symbols, such as ©, are left to the tokenizer.
EMOJI = re.compile("[\U0001f000-\U0001faff\u2600-\u27bf\u2b50\u2b55\u231a\u231b\ufe0f\u20e3]")
# A short prompt tells little about its language. These bounds let every English prompt of the demo and of the starter's
# sheets pass, and still notice plain sentences in other languages.
MIN_WORDS = 3
MIN_CONFIDENCE = 0.25
MAX_ENGLISH = 0.005
SHOWN_CHARACTERS = 40  # of a prompt in a warning


def replace_emoji(prompt: str) -> str:
    """The prompt with each emoji character replaced by its English name, which text encoders know.

    Raises:
        ConfigError: There are emoji characters, but the package `emoji` with their names is not installed.
    """
    if not EMOJI.search(prompt):
        return prompt
    if find_spec("emoji") is None:
        raise ConfigError(
            f"prompt {_shown(prompt)} has emoji characters, whose names are in the package emoji; describe them in "
            "words, or install it with: pip install 'emoji-ldm[demo]'"
        )
    import emoji

    named = emoji.replace_emoji(prompt, lambda _, data: f" {data['en'].strip(':').replace('_', ' ')} ")
    return " ".join(EMOJI.sub(" ", named).split())


def prompt_warnings(prompts: Iterable[str], folder: Path) -> Iterator[str]:
    """One line for each prompt that the model of a pipeline folder reads in part only, or in the wrong language."""
    kind = pipeline_kind(folder)
    tokenizer, max_tokens = _tokenizer(folder / kind.tokenizer), kind.max_tokens(folder)
    for prompt in dict.fromkeys(prompts):
        num_tokens = len(tokenizer.encode(prompt).ids) if tokenizer else 0
        if num_tokens > max_tokens:
            yield (
                f"prompt {_shown(prompt)} has {num_tokens} tokens, of which this model reads the first {max_tokens}; "
                "the rest is cut off"
            )
        if language := _foreign_language(prompt):
            yield f"prompt {_shown(prompt)} does not look like English but like {language}; models know English only"


def _shown(prompt: str) -> str:
    return repr(prompt if len(prompt) <= SHOWN_CHARACTERS else prompt[: SHOWN_CHARACTERS - 3] + "...")


def _foreign_language(prompt: str) -> str:
    """The code of the prompt's language, such as `fr`; empty for English and where it cannot be told."""
    letters = [letter for letter in prompt if letter.isalpha()]
    # Scripts without spaces have few words, but no doubt that they are not English.
    is_latin = all(ord(letter) < 0x250 for letter in letters)
    if is_latin and len(prompt.split()) < MIN_WORDS:
        return ""
    ranked = language_identifier().rank(prompt)
    code, confidence = ranked[0]
    if not is_latin:
        return str(code)
    return str(code) if confidence >= MIN_CONFIDENCE and dict(ranked)["en"] <= MAX_ENGLISH else ""


def _tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder without padding and truncation; None if it is there in another form."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
