"""The nearest neighbour as a baseline: for each prompt, the training picture whose caption is nearest to it.

A model is worth its training only where it does better than this search. What it finds is drawn by people, so that
likeness and transparency are those of real emoji; every picture is a copy, and nothing is ever new.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from emoji_ldm.errors import DatasetError
from emoji_ldm.evaluate.real_pictures import RealPicture

RETRIEVAL = "retrieval"  # its name among models; a folder of that name is `./retrieval`


def searched_pictures(facts: Sequence[RealPicture]) -> list[RealPicture]:
    """The captioned pictures that are not held out; DatasetError if there is none."""
    found = [picture for picture in facts if picture.caption and not picture.held_out]
    if not found:
        raise DatasetError(f"{RETRIEVAL} finds nothing: no training image has a caption; run: emoji-ldm caption")
    return found


def nearest_pictures(
    prompts: Sequence[str], pictures: Sequence[RealPicture], embeddings: Mapping[str, NDArray[np.float32]]
) -> list[RealPicture]:
    """The picture whose caption is nearest to each prompt.

    Args:
        prompts: What is asked for.
        pictures: From `searched_pictures`; of equally near ones the first is taken.
        embeddings: {text: `(d,)` of length 1} of the prompts and of the captions.
    """
    captions = np.stack([embeddings[picture.caption] for picture in pictures])
    wanted = np.stack([embeddings[prompt] for prompt in prompts])
    return [pictures[row] for row in (wanted @ captions.T).argmax(1)]
