import pytest

from emoji_ldm.caption.engine_protocol import EngineAnswer
from emoji_ldm.caption.prompt import EXAMPLE
from emoji_ldm.caption.validators import validate_answer

TITLE = "6205-blobWave.png"


def reason(text, title=TITLE, **about):
    return validate_answer(EngineAnswer(text, **about), title).reason


def test_a_good_answer_is_freed_of_quotes_and_read():
    good = validate_answer(EngineAnswer(f' "{EXAMPLE}"\n'), TITLE)
    assert (good.text, good.reason, good.attributes["action"]) == (EXAMPLE, "", "waving one hand")


@pytest.mark.parametrize(("text", "expected"), [
    ("", "empty answer"),
    (' \n"**"', "empty answer"),
    ("...!?", "empty answer"),
    ("I'm sorry, I cannot describe this emoji.", "a refusal"),
    ("I am unable to view images.", "a refusal"),
    ("As an AI language model, I have no eyes.", "a refusal"),
    ("Sorry, but I can't help with that.", "a refusal"),
    ("Blob wave emoji. I cannot see the picture.", "a refusal"),
    ("No image was provided. Please upload the image.", "a refusal"),
    ("Blob wave emoji con una cabeza redonda, ojos negros, boca alegre, con fondo blanco.", "looks like es"),
    ("Emoji avec une tête ronde, des yeux noirs et une bouche, sur un fond blanc.", "looks like fr"),
    ("Blob wave emoji mit einem runden Kopf, Augen und Mund, auf weißem Hintergrund.", "looks like de"),
    ("Żółta buźka macha ręką i szeroko się uśmiecha.", "looks like pl"),
    ("一个黄色的圆脸表情符号，正在挥手。", "of another script"),
    ("Blob wave emoji with a круглая жёлтая голова, глаза и рот", "of another script"),
    (EXAMPLE.replace("small black", "big big big big"), "repeats itself: 'big' 4 times in a row"),
    (EXAMPLE.replace("happy", "very happy very happy very happy"), "repeats itself: 'very happy'"),
    (EXAMPLE.replace("happy", "aaaaaaaaaaaaaaaa"), "repeats itself: a row of 'a'"),
    ("Blob wave emoji with a head, no eyes, a mouth, no eyes, red, no eyes.", "repeats itself: 'no eyes' 3 times"),
    ("Blob wave emoji.", "only the title, no description"),
    ("This is the blobWave emoji", "only the title, no description"),
    ("I see a happy blob that is waving.", "not in the asked form: head_shape"),
    (EXAMPLE.replace(" smiling mouth,", ""), "not in the asked form: mouth missing"),
])  # fmt: skip
def test_a_bad_answer_has_its_own_reason(text, expected):
    assert expected in reason(text)


def test_an_answer_that_was_cut_off_is_truncated_and_a_loop_says_so_first():
    assert reason(EXAMPLE, finished=False).startswith("truncated")
    assert reason("Blob wave emoji with a " + "round " * 60, finished=False).startswith("repeats itself")


@pytest.mark.parametrize(
    "title", ["Sorry I can't see it", "ha ha ha ha ha ha", "笑脸", "¿Qué es eso?", "a", "e.*mo(ji"]
)
def test_a_title_of_any_kind_fails_no_caption(title):
    assert reason(EXAMPLE.replace("Blob wave", title), title) == ""


def test_what_the_engine_itself_says_comes_first():
    assert reason("", error="gave up") == "gave up"
