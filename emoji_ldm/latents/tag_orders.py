"""Other orders of the tags of a caption: `a cat, blue, round` is also trained as `a cat, round, blue`.

A text encoder turns the order of words into other states, and a model that saw one order only learns to depend on it.
States are encoded before training, so further orders are further captions of the image. The first tag, which names the
subject, stays first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def tag_orders(caption: str, count: int) -> list[str]:
    """Up to `count` other orders of the caption's tags; none for a caption of fewer than three tags."""
    first, *rest = (tag.strip() for tag in caption.split(","))
    if len(rest) < 2:
        return []
    # Sorted by hashes and not shuffled by a generator, whose sequence may change with its library. More orders are
    # tried than wanted, since some of them come twice.
    tried = (
        ", ".join([first, *sorted(rest, key=lambda tag: hashlib.sha256(f"{number}|{tag}|{caption}".encode()).digest())])
        for number in range(4 * count)
    )
    return [order for order in dict.fromkeys(tried) if order != caption][:count]


def with_tag_orders(captions: Iterable[str], count: int) -> list[str]:
    """The captions, each followed by its other orders; each text once."""
    return list(dict.fromkeys(text for caption in captions for text in (caption, *tag_orders(caption, count))))
