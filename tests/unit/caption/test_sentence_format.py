import pytest

from emoji_ldm.caption.prompt import EXAMPLE
from emoji_ldm.caption.sentence_format import parse_sentence, write_sentence
from emoji_ldm.schemas import CAPTION_ATTRIBUTES

BLOB = {
    "head_shape": "round yellow head", "eyes": "small black", "mouth": "smiling", "expression": "happy",
    "skin_color": "yellow", "action": "waving one hand", "background": "white",
}  # fmt: skip


def test_the_reference_form_is_written_word_for_word():
    expected = (
        "Blob wave emoji with a round yellow head, small black eyes, smiling mouth, happy expression, "
        "yellow skin color, waving one hand, with a white background."
    )
    assert write_sentence("Blob wave", BLOB) == expected == EXAMPLE


def test_a_full_sentence_is_read_back():
    assert parse_sentence(write_sentence("Heart with arrow", BLOB)) == BLOB
    assert tuple(parse_sentence(EXAMPLE)) == CAPTION_ATTRIBUTES


@pytest.mark.parametrize("absent", CAPTION_ATTRIBUTES)
def test_a_clause_of_none_is_left_out_and_not_read(absent):
    sentence = write_sentence("Cat", {**BLOB, absent: "none"}, tag="pepe")
    assert "none" not in sentence
    assert parse_sentence(sentence) == {name: value for name, value in BLOB.items() if name != absent}


def test_commas_inside_a_clause_belong_to_it():
    found = parse_sentence("Owl emoji with a round head, large, dark eyes, no mouth, calm expression, brown skin tone, "
                  "sitting, holding a branch, against a light blue background")  # fmt: skip
    assert found["eyes"] == "large, dark"
    assert found["action"] == "sitting, holding a branch"
    assert found["background"] == "light blue"


def test_a_stated_absence_reads_as_none():
    found = parse_sentence("Taco emoji with a wide shape, no eyes, no mouth, no expression, no skin color, no action, "
                  "with a white background.")  # fmt: skip
    assert set(found) == set(CAPTION_ATTRIBUTES)
    assert [found[name] for name in CAPTION_ATTRIBUTES[1:6]] == ["none"] * 5


def test_articles_fit_the_word_behind():
    assert write_sentence("Orange", {"head_shape": "orange round shape"}) == "Orange emoji with an orange round shape."


@pytest.mark.parametrize("text", ["", "I cannot see an image.", "A happy blob waving.", "emoji", "emoji with "])
def test_other_text_gives_no_attributes(text):
    assert not {name: value for name, value in parse_sentence(text).items() if value != "none"}
