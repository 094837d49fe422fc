"""A batch with bad images: they are found by halving, and nobody else pays."""

import pytest

from emoji_ldm.caption.engine_protocol import CaptionRequest, EngineAnswer, EngineLostError, EngineOutOfMemoryError
from emoji_ldm.caption.fault_isolation import format_exception, isolate_faults, probe_request
from emoji_ldm.errors import ModelError
from tests.fake_caption_engines import FakeEngine


def requests(count):
    return [CaptionRequest(None, str(number)) for number in range(count)]


def engine_that_fails_on(*image_ids):
    def say(request):
        if request.image_id in image_ids:
            raise RuntimeError("shape  mismatch")
        return request.image_id

    return FakeEngine(say)


@pytest.mark.parametrize("bad", [set(), {3}, {0, 7}, {0, 1, 2, 3, 4, 5, 6}])
def test_each_bad_image_costs_its_own_answer_alone(bad):
    found = isolate_faults(engine_that_fails_on(*map(str, bad)), requests(8))
    assert {number for number, outcome in enumerate(found) if isinstance(outcome, RuntimeError)} == bad
    assert all(outcome.text == str(number) for number, outcome in enumerate(found) if number not in bad)


def test_one_bad_image_costs_few_calls():
    engine = engine_that_fails_on("5")
    isolate_faults(engine, requests(64))
    assert len(engine.batches) <= 1 + 2 * 6, "64 images are halved six times"


def test_if_all_images_fail_a_probe_tells_whether_the_engine_is_broken():
    found = isolate_faults(engine_that_fails_on("0", "1"), requests(2))
    assert [format_exception(outcome) for outcome in found] == ["RuntimeError: shape mismatch"] * 2
    broken = engine_that_fails_on("0", "1", probe_request().image_id)
    with pytest.raises(ModelError, match="fails on each of 2 images, and on a test image: RuntimeError"):
        isolate_faults(broken, requests(2))


def test_a_lost_engine_is_not_halved():
    def say(request):
        raise EngineLostError("CUDA error")

    engine = FakeEngine(say)
    with pytest.raises(EngineLostError):
        isolate_faults(engine, requests(8))
    assert len(engine.batches) == 1


def test_a_batch_that_exceeds_the_memory_is_halved_until_it_fits():
    class Small(FakeEngine):
        def answer(self, prepared):
            if len(prepared) > 2:
                raise EngineOutOfMemoryError("2 GiB")
            return super().answer(prepared)

    engine = Small(lambda request: request.image_id)
    found = isolate_faults(engine, requests(8), engine.prepare(requests(8)))
    assert found == [EngineAnswer(str(number)) for number in range(8)] and len(engine.batches) == 4
