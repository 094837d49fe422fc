"""The metadata engine: captions that claim only what is known."""

import io

import pytest
from PIL import Image, ImageDraw

from emoji_ldm.caption.engine_protocol import CaptionInput
from emoji_ldm.caption.metadata import clean_title, describe_image
from emoji_ldm.caption.sentence_format import parse_sentence
from emoji_ldm.caption.validators import validate_answer
from tests.emoji_images import blobs, openmoji


def caption_input(picture):
    return CaptionInput(Image.open(io.BytesIO(picture.data)).convert("RGBA"), picture.title, picture.tags)


def drawn(shape, box, colour="red", background=(0, 0, 0, 0)):
    image = Image.new("RGBA", (96, 96), background)
    getattr(ImageDraw.Draw(image), shape)(box, fill=colour)
    return image


@pytest.mark.parametrize(("title", "expected"), [
    ("6205-blobCry.png", "Blob cry"), ("happy_panda_wave", "Happy panda wave"), (":smile:", "Smile"), ("LOL", "LOL"),
    ("", "Unnamed"), ("---", "Unnamed"), ("a, b. emoji", "A b"), ("face with heart-eyes", "Face with heart-eyes"),
])  # fmt: skip
def test_titles_become_words(title, expected):
    assert clean_title(title) == expected


def test_a_face_says_what_its_title_says_and_no_more():
    attributes = describe_image(caption_input(openmoji(1)[0])).attributes  # grinning face
    assert attributes == {
        "head_shape": "yellow round head", "eyes": "none", "mouth": "grinning", "expression": "happy",
        "skin_color": "yellow", "action": "none", "background": "transparent",
    }  # fmt: skip


def test_a_thing_has_no_face():
    caption = describe_image(caption_input(openmoji(3)[2]))  # hot dog
    assert not caption.error
    assert caption.text.startswith("Hot dog emoji from food with a")
    assert {caption.attributes[name] for name in ("eyes", "mouth", "expression", "skin_color", "action")} == {"none"}


def test_a_tag_that_the_title_lacks_is_kept():
    image = drawn("ellipse", (8, 8, 88, 88), "black")
    assert describe_image(CaptionInput(image, "happyWave", ("Panda",))).text.startswith(
        "Happy wave emoji from panda with a black"
    )
    assert " from " not in describe_image(CaptionInput(image, "panda wave", ("Panda",))).text


@pytest.mark.slow
def test_real_emoji_get_captions_that_pass_validation_read_back_and_tell_them_apart():
    inputs = [caption_input(picture) for picture in (*openmoji(120), *blobs(120))]
    captions = [validate_answer(describe_image(one), one.title) for one in inputs]
    for caption in captions:
        assert not caption.reason
        assert parse_sentence(caption.text) == {
            name: value for name, value in caption.attributes.items() if value != "none"
        }
    assert len({caption.text for caption in captions}) > 0.95 * len(captions)


def test_further_captions_say_the_same_facts_in_other_sentences_until_there_are_none_left():
    one = caption_input(openmoji(1)[0])
    several = [describe_image(one, number) for number in range(9)]
    good = [validate_answer(answer, one.title) for answer in several if not answer.error]
    assert len({caption.text for caption in good}) == len(good) == 8
    assert not any(caption.reason for caption in good)
    for caption in good:
        assert all(value.lower() in caption.text.lower() for value in caption.attributes.values() if value != "none")
    assert several[8].error == "the facts of this image allow only 8 different sentences"


@pytest.mark.parametrize(
    "title", ["lol lol lol lol", "I'm sorry, I can't see", "Улыбка", "絵文字", "el gato con ojos", ""]
)
def test_no_title_makes_a_measured_caption_fail(title):
    answer = describe_image(CaptionInput(drawn("ellipse", (8, 8, 88, 88)), title, ("emoji",)))
    assert validate_answer(answer, title).reason == ""
