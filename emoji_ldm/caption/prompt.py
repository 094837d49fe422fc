"""The prompt of vision-language models: the form of the sentence, one example, the title.

`INSTRUCTION` is hashed into the engine's key: a changed word makes all captions be written anew.
"""

from __future__ import annotations

from typing import Any

FORM = (
    "{title} emoji with a {head shape}, {eyes} eyes, {mouth} mouth, {expression} expression, "
    "{skin color} skin color, {action}, with a {background} background."
)
# One example keeps small models to the form. Its title is written as listings write titles, and its sentence shows how
# such a title is spelled as words.
EXAMPLE_TITLE = "blobwave"
EXAMPLE = (
    "Blob wave emoji with a round yellow head, small black eyes, smiling mouth, happy expression, "
    "yellow skin color, waving one hand, with a white background."
)
INSTRUCTION = (
    "Describe this emoji in exactly one sentence of this form, and write nothing else:\n"
    f"{FORM}\n"
    'Fill in every part from the picture. Write "no eyes", "no mouth", "no expression", "no skin color" or '
    '"no action" where the picture shows none.\n'
    f'Example for the title "{EXAMPLE_TITLE}": {EXAMPLE}'
)


def chat_messages(title: str) -> list[dict[str, Any]]:
    """One user turn in the chat format of transformers: the image, then instruction and title."""
    # The title comes last, so that the long instruction is the same prefix in all prompts, which engines can cache.
    text = f'{INSTRUCTION}\nThe title of this emoji is "{title}".'
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
