"""Which captions of an image are used, and in which order."""

from emoji_ldm.dataset.caption_selection import good_captions
from tests.caption_rows import fill_captions


def test_people_come_first_and_alone_then_models_then_measured_sentences(store):
    table = fill_captions(store, [("a", "metadata", "measured"), ("a", "vllm", "seen"), ("a", "qwen2.5-vl", "seen"),
                                  ("b", "metadata", "measured"), ("b", "human", "by hand")])  # fmt: skip
    assert good_captions(table) == {"a": ["seen", "measured"], "b": ["by hand"]}
