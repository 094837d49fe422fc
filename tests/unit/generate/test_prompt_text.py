"""Prompts in emoji characters, too long ones, and those in other languages."""

import importlib.util

import pytest
import yaml

from emoji_ldm.config import build
from emoji_ldm.config.loading import PRESET_FOLDER
from emoji_ldm.errors import ConfigError
from emoji_ldm.generate import prompt_text
from emoji_ldm.generate.prompt_text import prompt_warnings, replace_emoji
from emoji_ldm.generate.request import plan_requests
from infra.starter.prompts import PROMPTS


@pytest.mark.parametrize(("prompt", "named"), [
    ("😀", "grinning face"),
    ("happy 🐱 with 🕶️", "happy cat face with sunglasses"),
    ("👩‍🚀", "woman astronaut"),
    ("❤️", "red heart"),
    ("👍🏽 up", "thumbs up medium skin tone up"),
    ("5 of 6, © a b_c", "5 of 6, © a b_c"),
])  # fmt: skip
def test_emoji_characters_become_their_names(prompt, named):
    assert replace_emoji(prompt) == named
    assert [request.prompt for request in plan(prompt)] == [named]


def test_without_the_names_a_prompt_of_emoji_is_refused_and_any_other_is_not(monkeypatch):
    monkeypatch.setattr(prompt_text, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"prompt 'a 🐱' has emoji characters.*describe them in words, or install"):
        replace_emoji("a 🐱")
    assert replace_emoji("a cat") == "a cat"
    assert importlib.util.find_spec("emoji")


def plan(*prompts):
    return plan_requests(build({"generate": {"prompts": list(prompts)}}, where="test").generate)


@pytest.mark.parametrize("prompts", [[""], ["  \n"], ["a cat", ""]])
def test_an_empty_prompt_is_refused(prompts):
    with pytest.raises(ConfigError, match="a prompt is empty; say what to draw"):
        plan(*prompts)


@pytest.mark.slow
def test_a_long_prompt_is_named_with_its_length(tiny_starter):
    (line,) = prompt_warnings(["cat " * 500, "a cat", "cat " * 30], tiny_starter)
    assert line == (
        f"prompt {'cat ' * 9 + 'c...'!r} has 502 tokens, of which this model reads the first 32; the rest is cut off"
    ).replace("c...", "c...")


@pytest.mark.slow
@pytest.mark.parametrize(("prompt", "code"), [
    ("chat heureux avec des lunettes de soleil", "fr"), ("eine fröhliche Katze mit Sonnenbrille", "de"),
    ("红色的心", "zh"), ("счастливый кот", "ru"),
])  # fmt: skip
def test_other_languages_are_noticed(tiny_starter, prompt, code):
    (line,) = prompt_warnings([prompt], tiny_starter)
    assert line == f"prompt {prompt!r} does not look like English but like {code}; models know English only"


@pytest.mark.slow
def test_no_english_prompt_of_ours_is_taken_for_another_language(tiny_starter):
    demo = yaml.safe_load((PRESET_FOLDER / "demo.yaml").read_text())["generate"]["prompts"]
    assert list(prompt_warnings([*PROMPTS, *demo, "a zwx dog", "taco"], tiny_starter)) == []
