"""Which captions of an image are used, and in which order."""

import numpy as np

from emoji_ldm.dataset.caption_selection import ENGINE_RANK, good_captions
from tests.caption_rows import fill_captions


def test_people_come_first_and_alone_then_models_then_measured_sentences(store):
    table = fill_captions(store, [("a", "metadata", "measured"), ("a", "vllm", "seen"), ("a", "qwen2.5-vl", "seen"),
                                  ("b", "metadata", "measured"), ("b", "human", "by hand")])  # fmt: skip
    assert good_captions(table) == {"a": ["seen", "measured"], "b": ["by hand"]}


def test_the_order_is_that_of_the_rule_whatever_the_order_of_the_rows(store):
    """The rule in Python, against the one in Arrow."""
    random = np.random.default_rng(0)
    rows = [(f"i{random.integers(40)}", str(random.choice(["human", "metadata", "b", "a"], p=[0.1, 0.3, 0.3, 0.3])),
             f"text {random.integers(5)}") for _ in range(300)]  # fmt: skip
    numbers = [int(number) for number in random.integers(3, size=300)]
    for number in range(3):
        part = [row for row, own in zip(rows, numbers, strict=True) if own == number]
        table = fill_captions(store, part, number=number or None)
    expected: dict[str, list[str]] = {}
    people = {image_id for image_id, engine, _ in rows if engine == "human"}
    keyed = sorted((ENGINE_RANK.get(engine, 1), engine, number, text, image_id)
                   for (image_id, engine, text), number in zip(rows, numbers, strict=True))  # fmt: skip
    for rank, _, _, text, image_id in keyed:
        known = expected.setdefault(image_id, [])
        if text not in known and (rank == 0 or image_id not in people):
            known.append(text)
    assert good_captions(table) == expected
    assert list(good_captions(table)) == sorted(expected)
