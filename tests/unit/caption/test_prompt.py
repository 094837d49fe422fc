"""The prompt of vision-language models."""

from emoji_ldm.caption.engine_protocol import EngineAnswer
from emoji_ldm.caption.prompt import EXAMPLE, EXAMPLE_TITLE, INSTRUCTION, chat_messages
from emoji_ldm.caption.sentence_format import parse_sentence
from emoji_ldm.caption.validators import validate_answer
from emoji_ldm.config import key_of
from emoji_ldm.schemas import CAPTION_ATTRIBUTES


def test_the_example_is_a_caption_that_passes():
    assert list(parse_sentence(EXAMPLE)) == list(CAPTION_ATTRIBUTES)
    assert validate_answer(EngineAnswer(EXAMPLE), EXAMPLE_TITLE).reason == ""


def test_the_image_stands_before_the_instruction_and_the_title():
    (turn,) = chat_messages("Cat")
    assert [part["type"] for part in turn["content"]] == ["image", "text"]
    assert turn["content"][1]["text"].startswith(INSTRUCTION) and turn["content"][1]["text"].endswith('is "Cat".')


def test_the_instruction_is_part_of_the_engine_key_and_stays_as_it_is():
    assert key_of(INSTRUCTION) == "792041655f0ad1a7"
