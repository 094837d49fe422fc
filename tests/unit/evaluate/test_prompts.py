"""Concepts, styles and colours that prompts name; the grid of prompts."""

from collections import Counter

import pytest

from emoji_ldm.evaluate.prompts import GRID, colors_of, concept_of, style_of


@pytest.mark.parametrize(
    ("caption", "concept", "style"),
    [
        ("fluent flat style: moose, animal, antlers", "moose", "fluent flat"),
        ("noto emoji of a 1st place medal", "1st place medal", ""),
        ("Blob happy emoji with a yellow round head, with a transparent background.", "blob happy", ""),
        ("This is the Cat emoji, with a gray shape.", "cat", ""),
        ("purple cat riding a skateboard", "purple cat riding a skateboard", ""),
        ("Grinning Face.", "grinning face", ""),
        ("", "", ""),
    ],
)
def test_a_caption_names_its_concept_and_style(caption, concept, style):
    assert (concept_of(caption), style_of(caption)) == (concept, style)


def test_colours_are_words_of_their_own_each_once():
    assert colors_of("a grey cat with Red shoes, reddish nose, red hat and golden hair") == ("gray", "red", "yellow")


def test_the_grid_crosses_length_content_and_subject():
    cells = Counter((cell.length, cell.content, cell.subject) for cell in GRID)
    assert len(cells) == 16 and set(cells.values()) == {1}
    short, long = ([len(cell.prompt) for cell in GRID if cell.length == kind] for kind in ("short", "long"))
    assert max(short) < min(long)
