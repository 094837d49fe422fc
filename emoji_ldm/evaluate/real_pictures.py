"""The real emoji of a data set as an evaluation sees them: names, styles, and which of them no model was trained on."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from emoji_ldm.caption.metadata import clean_title
from emoji_ldm.dataset.caption_selection import good_captions
from emoji_ldm.dataset.split import is_held_out
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import DatasetError
from emoji_ldm.evaluate.prompts import colors_of, concept_of, style_of

UNNAMED = clean_title("").lower()
PAIR, CONCEPT, SEEN = "pair", "concept", "seen"
# Tags by which a data set itself says what it holds out, such as `split:pair`; all but the second are held out.
SPLIT_TAG, TRAIN_TAG = "split:", "split:train"


@dataclass(frozen=True)
class TrainingSplit:
    """Decides which images a training held out, see `train.validation_fraction`."""

    fraction: float
    seed: int
    by_tags: bool = False  # where an image has a tag `split:...`, that decides instead

    def holds_out(self, image_id: str, tags: Sequence[str]) -> bool:
        """Whether the training left this image out."""
        stated = [tag for tag in tags if tag.startswith(SPLIT_TAG)]
        if self.by_tags and stated:
            return TRAIN_TAG not in stated
        return is_held_out(image_id, self.fraction, self.seed)


@dataclass(frozen=True)
class RealPicture:
    """One image of the table."""

    image_id: str
    concept: str  # its title in lower case
    style: str  # "" if no caption states one
    caption: str  # the first; "" if it has none
    held_out: bool  # by every split


@dataclass(frozen=True)
class WantedPicture:
    """What a picture was drawn to show."""

    prompt: str
    concept: str
    style: str
    colors: tuple[str, ...]
    truth: str = ""  # id of the real image whose caption the prompt is
    # pair: the concept was trained on in other styles only; concept: it was not trained on at all; seen: neither
    novelty: str = ""

    @classmethod
    def of_prompt(cls, prompt: str) -> WantedPicture:
        """What free text asks for."""
        return cls(prompt, concept_of(prompt), style_of(prompt), colors_of(prompt))

    @classmethod
    def of_picture(cls, picture: RealPicture) -> WantedPicture:
        """What a real picture shows."""
        return cls(picture.caption, picture.concept, picture.style, colors_of(picture.caption))


def read_real_pictures(images: Table, captions: Table, splits: Iterable[TrainingSplit]) -> list[RealPicture]:
    """All images, ordered by a hash of their ids: the first n are an even sample of them.

    Raises:
        DatasetError: There is no image.
    """
    if not images.exists or not images.count():
        raise DatasetError(f"{images.store.uri} has no images to compare with; run: emoji-ldm crawl")
    texts, splits = good_captions(captions) if captions.exists else {}, list(splits)
    found = []
    for row in images.read(["image_id", "title", "tags"]).to_pylist():
        image_id, several = row["image_id"], texts.get(row["image_id"], [])
        style = next(filter(None, map(style_of, several)), "")
        held_out = bool(splits) and all(split.holds_out(image_id, row["tags"] or ()) for split in splits)
        caption = several[0].strip() if several else ""
        name = clean_title(row["title"] or "").lower()
        # Sites without titles leave the caption to name what is shown.
        name = concept_of(caption) if name == UNNAMED and caption else name
        found.append(RealPicture(image_id, name, style, caption, held_out))
    return sorted(found, key=lambda picture: hashlib.sha256(f"evaluate:{picture.image_id}".encode()).digest())


def held_out_prompts(pictures: Sequence[RealPicture], most: int) -> list[WantedPicture]:
    """The captions of held-out images, each once, with the image as the true picture.

    Raises:
        DatasetError: No held-out image has a caption.
    """
    trained_styles = defaultdict[str, set[str]](set)
    for picture in pictures:
        if not picture.held_out:
            trained_styles[picture.concept].add(picture.style)
    chosen: dict[str, WantedPicture] = {}
    for picture in pictures:
        if picture.held_out and picture.caption and picture.caption not in chosen and len(chosen) < most:
            styles = trained_styles.get(picture.concept)
            novelty = CONCEPT if not styles else PAIR if picture.style and picture.style not in styles else SEEN
            # The title names the concept; a caption may name it in other words, or only by keywords.
            chosen[picture.caption] = WantedPicture(
                picture.caption, picture.concept, style_of(picture.caption), colors_of(picture.caption),
                picture.image_id, novelty,
            )  # fmt: skip
    if not chosen:
        raise DatasetError(
            "no image is held out and captioned, so that there is no prompt to judge by; "
            "set train.validation_fraction above 0 as in the training, or run: emoji-ldm caption"
        )
    return list(chosen.values())
