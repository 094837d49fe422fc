"""Names of emoji."""

import pytest

from emoji_ldm.packs.emoji_names import name_emoji, slug
from emoji_ldm.packs.target_limits import TARGETS

DISCORD, SLACK = TARGETS["discord"], TARGETS["slack"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a happy blob", "happy_blob"),
        ("an emoji of a cat, crying", "cat_crying"),
        ("HappyCat", "happy_cat"),
        ("mèo vui đỏ", "meo_vui_do"),
        ("a very long prompt about a purple octopus that juggles", "very_long_prompt_about_a_purple"),
        ("x" * 50, "x" * 32),
        ("7", "emoji_7"),
        ("the emoji", "emoji"),
        ("猫", "emoji"),
        ("<script>alert(1)</script>", "script_alert_1_script"),
        ("../../etc/passwd", "etc_passwd"),
    ],
)
def test_words_of_a_prompt_become_a_name_that_every_target_accepts(text, name):
    assert slug(text) == name
    assert all(target.accepts_name(name) for target in TARGETS.values())


def test_a_name_that_the_target_accepts_stays_and_others_are_changed():
    assert name_emoji(["PartyBlob"], DISCORD) == ["PartyBlob"]
    assert name_emoji(["PartyBlob"], SLACK) == ["party_blob"]


def test_equal_names_get_numbers_and_upper_case_makes_no_difference():
    assert name_emoji(["cat", "Cat", "cat", "a cat"], DISCORD) == ["cat", "Cat_2", "cat_3", "cat_4"]


def test_a_number_never_makes_a_name_too_long():
    names = name_emoji(["word " * 20] * 12, SLACK)
    assert len(set(names)) == 12 and all(SLACK.accepts_name(name) for name in names)
