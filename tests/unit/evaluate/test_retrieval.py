"""The baseline that searches the training pictures."""

import numpy as np
import pytest

from emoji_ldm.errors import DatasetError
from emoji_ldm.evaluate.real_pictures import RealPicture
from emoji_ldm.evaluate.retrieval import nearest_pictures, searched_pictures


def picture(name, *, held_out=False, caption=None):
    return RealPicture(name, name, "", f"a {name}" if caption is None else caption, held_out)


def test_held_out_and_uncaptioned_pictures_are_never_found():
    facts = [picture("cat"), picture("owl", held_out=True), picture("bee", caption="")]
    assert [one.image_id for one in searched_pictures(facts)] == ["cat"]
    with pytest.raises(DatasetError, match="emoji-ldm caption"):
        searched_pictures(facts[1:])


def test_the_picture_of_the_nearest_caption_is_found_and_of_equal_ones_the_first():
    pictures = [picture("cat"), picture("dog"), picture("copy", caption="a dog")]
    embeddings = {"a cat": [1, 0], "a dog": [0, 1], "kitten": [0.9, np.sqrt(0.19)], "puppy": [0.1, np.sqrt(0.99)]}
    arrays = {text: np.array(vector, np.float32) for text, vector in embeddings.items()}
    found = nearest_pictures(["puppy", "kitten", "a dog"], pictures, arrays)
    assert [one.image_id for one in found] == ["dog", "cat", "dog"]
