"""Requests and keys of caption engines."""

import pytest

from emoji_ldm.caption.engine_protocol import CaptionRequest, engine_key
from emoji_ldm.config import CaptionConfig

METADATA = CaptionConfig()


@pytest.mark.parametrize(("change", "same"), [
    ({"batch_size": 3}, True), ({"num_workers": 9}, True), ({"num_captions": 3}, True), ({"max_retries": 0}, True),
    ({"retry": "failed"}, True), ({"model": "other/model"}, False), ({"size_px": 448}, False),
    ({"engine": "vllm"}, False),
])  # fmt: skip
def test_the_engine_key_holds_what_decides_the_caption(change, same):
    config = CaptionConfig(engine="qwen2.5-vl")
    assert (engine_key(config) == engine_key(config.model_copy(update=change))) == same
    assert engine_key(config) != engine_key(METADATA)


def test_the_first_answer_is_greedy_and_each_further_one_hotter_with_a_seed_of_its_own():
    def of(number, attempt):
        return CaptionRequest(None, "image", number, attempt)

    assert [of(0, attempt).temperature for attempt in range(4)] == [0.0, 0.7, 1.0, 1.0]
    assert [of(1, attempt).temperature for attempt in range(3)] == [0.7, 1.0, 1.0]
    assert len({of(number, attempt).seed for number in range(5) for attempt in range(5)}) == 25
    assert of(1, 2).seed == of(1, 2).seed < 2**31
