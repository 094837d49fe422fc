"""Rows of images become rows of captions: full batches, validation, retries."""

import json

import pyarrow as pa
import pytest

from emoji_ldm.caption.batching import CaptionBatcher
from emoji_ldm.caption.engine_protocol import EngineLostError, EngineOutOfMemoryError
from emoji_ldm.caption.metadata import MetadataEngine
from emoji_ldm.caption.planner import COLUMNS, plan_captions, plan_column
from emoji_ldm.config import CaptionConfig
from emoji_ldm.errors import ModelError
from emoji_ldm.schemas import CAPTIONS
from tests.emoji_images import blobs, image_rows
from tests.fake_caption_engines import FakeEngine, caption_for

VLM = CaptionConfig(engine="qwen2.5-vl")


def write(engine, images, config=VLM):
    return CaptionBatcher(engine, config).run(images).to_pylist()


@pytest.fixture(scope="module")
def ten():
    return image_rows(blobs(10))


def with_bytes(images, place, data):
    rows = images.to_pylist()
    rows[place]["image"] = {"bytes": data, "path": ""}
    return pa.Table.from_pylist(rows, schema=images.schema)


def refusing(*attempts):
    """Refuses at these attempts."""
    return lambda request: "I'm sorry, I cannot." if request.attempt in attempts else caption_for(request)


def test_rows_follow_their_images_and_the_schema():
    images = image_rows(blobs(20))
    rows = CaptionBatcher(MetadataEngine(), CaptionConfig()).run(images)
    assert rows.schema == CAPTIONS.schema
    assert rows["image_id"].to_pylist() == images["image_id"].to_pylist()
    assert set(rows["status"].to_pylist()) == {"ok"}
    assert len(set(rows["caption_id"].to_pylist())) == 20


@pytest.mark.parametrize("data", [b"no picture", b"", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_a_broken_picture_is_one_failed_row(ten, data):
    rows = write(FakeEngine(), with_bytes(ten, 2, data))
    assert [row["status"] for row in rows] == ["ok", "ok", "failed", *["ok"] * 7]
    assert rows[2]["reason"].startswith("unreadable image")
    assert (rows[2]["caption"], rows[2]["attempts"]) == ("", 0)


def test_a_picture_on_which_the_engine_raises_costs_its_own_row_alone(ten):
    poison = ten["image_id"][6].as_py()

    def say(request):
        if request.image_id == poison:
            raise RuntimeError("shape mismatch")
        return caption_for(request)

    rows = write(FakeEngine(say), ten)
    assert [row["status"] for row in rows].count("ok") == 9
    assert rows[6]["reason"] == "the engine failed on this image: RuntimeError: shape mismatch"


@pytest.mark.parametrize("good", [0, 1, 4], ids=["alone", "beside a good one", "in a tail of their own"])
def test_poison_pictures_that_come_together_cost_their_own_rows_alone(ten, good):
    poison = ten["image_id"].to_pylist()[good : good + 2]

    def say(request):
        if request.image_id in poison:
            raise RuntimeError("shape mismatch")
        return caption_for(request)

    rows = write(FakeEngine(say), ten.slice(0, good + 2))
    assert [row["status"] for row in rows] == ["ok"] * good + ["failed"] * 2


def test_an_engine_that_fails_on_every_picture_or_is_dead_marks_no_row(ten):
    def broken(request):
        raise TypeError("generate() got an unexpected keyword")

    def dead(request):
        raise EngineLostError("CUDA error")

    with pytest.raises(ModelError, match=r"fails on each of 4 images, and on a test image: TypeError: generate"):
        write(FakeEngine(broken), ten)
    with pytest.raises(EngineLostError):
        write(FakeEngine(dead), ten)


def test_a_batch_too_large_for_the_memory_is_halved_and_one_picture_too_large_is_the_models_fault(ten):
    class Small(FakeEngine):
        fits = 2

        def answer(self, prepared):
            if len(prepared) > self.fits:
                raise EngineOutOfMemoryError("tried to allocate 2 GiB")
            return super().answer(prepared)

    engine = Small()
    assert {row["status"] for row in write(engine, ten)} == {"ok"}
    assert max(map(len, engine.batches)) == 2
    engine.fits = 0
    with pytest.raises(ModelError, match="one image alone"):
        write(engine, ten)


def test_only_what_failed_is_asked_again_at_most_twice_and_hotter(ten):
    poor = set(ten["image_id"].to_pylist()[:3])

    def say(request):
        return "" if request.image_id in poor and request.attempt < 2 else caption_for(request)

    engine = FakeEngine(say)
    rows = write(engine, ten)
    assert [row["attempts"] for row in rows] == [3] * 3 + [1] * 7
    assert {row["status"] for row in rows} == {"ok"}
    asked = [request for batch in engine.batches for request in batch]
    assert len(asked) == 16
    assert {request.temperature for request in asked if request.image_id in poor} == {0.0, 0.7, 1.0}
    assert engine.preparers == {"prepare_0"}  # a thread of its own, so that the engine need not wait


def test_what_fails_to_the_end_keeps_the_last_reason(ten):
    rows = write(FakeEngine(refusing(0, 1, 2)), ten)
    assert {(row["status"], row["attempts"], row["caption"]) for row in rows} == {("failed", 3, "")}
    assert {row["reason"] for row in rows} == {'a refusal: "I\'m sorry"'}
    once = write(FakeEngine(refusing(0)), ten, VLM.model_copy(update={"max_retries": 0}))
    assert {(row["status"], row["attempts"]) for row in once} == {("failed", 1)}


def test_captions_of_an_image_differ_or_say_which_one_they_repeat(ten):
    def say(request):  # the second caption is the first again, at each attempt; the third one differs
        return caption_for(type(request)(request.input, request.image_id, 2 * (request.number == 2), 0))

    rows = write(FakeEngine(say), ten, VLM.model_copy(update={"num_captions": 3}))
    assert [row["number"] for row in rows[:3]] == [0, 1, 2]
    assert [row["status"] for row in rows[:3]] == ["ok", "failed", "ok"]
    assert (rows[1]["reason"], rows[1]["attempts"]) == ("same as caption 0", 3)
    assert len({row["caption_id"] for row in rows}) == 30


def test_answers_do_not_depend_on_the_batches_that_carried_them(ten):
    config = VLM.model_copy(update={"num_captions": 2})
    texts = [[row["caption"] for row in write(FakeEngine(refusing(0), size), ten, config)] for size in (1, 4, None)]
    assert texts[0] == texts[1] == texts[2]


def test_batches_stay_full_until_the_queue_runs_dry():
    images = image_rows(blobs(64))
    batcher = CaptionBatcher(FakeEngine(lambda request: "" if request.seed % 3 == 0 else caption_for(request), 16), VLM)
    batcher.run(images)
    assert batcher.num_requests > 64
    assert batcher.num_requests / batcher.num_slots > 0.8


def rows_of(*rows):
    return pa.Table.from_pylist([dict(zip(COLUMNS, row, strict=True)) for row in rows])


def test_a_failed_caption_that_is_tried_again_gets_answers_it_did_not_get_before(ten):
    ids = ten["image_id"].to_pylist()
    done = rows_of(*((f"k{image_id}", image_id, 0, 3, "failed", "") for image_id in ids))
    plans = plan_captions(ids, done, num_captions=1, retry=True)
    engine = FakeEngine(refusing(3))
    rows = write(engine, ten.append_column("plan", plan_column(plans, ids)))
    assert {(row["status"], row["attempts"]) for row in rows} == {("ok", 5)}
    assert json.loads(plan_column(plans, ids)[0].as_py())["missing"] == {"0": 3}
