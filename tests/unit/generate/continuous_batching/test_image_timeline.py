"""What a trace shows of an image: the stages it went through, in order, and evenly spaced steps."""

from itertools import pairwise

import pytest

from emoji_ldm.generate.continuous_batching.image_timeline import MAX_STEPS, STAGES, ImageTimeline
from emoji_ldm.generate.request import GenerationRequest


@pytest.mark.parametrize("total", [1, 7, 16, 17, 50, 1000])
def test_a_few_evenly_spaced_steps_are_kept_and_the_last(total):
    timeline = ImageTimeline()
    for done in range(1, total + 1):
        timeline.add_step(done, total, 3)
    kept = [done for _, done, _ in timeline.steps]
    assert kept[-1] == total and len(kept) <= MAX_STEPS + 1 and len(kept) >= min(total, MAX_STEPS / 2)
    assert len({later - earlier for earlier, later in pairwise(kept[:-1])}) <= 1


@pytest.mark.slow
def test_an_image_that_is_drawn_has_every_stage_in_order_and_others_have_no_timeline(shared_batcher):
    timeline = ImageTimeline()
    images = [shared_batcher.submit(GenerationRequest("a cat", seed=seed, steps=5)) for seed in range(3)]
    traced = shared_batcher.submit(GenerationRequest("a cat", seed=9, steps=5), timeline=timeline, num_previews=2)
    assert traced.future.result(60) and all(image.future.result(60) for image in images)
    moments = [timeline.marks[name] for _, *ends in STAGES for name in ends]
    assert moments == sorted(moments)
    assert [done for _, done, _ in timeline.steps] == [1, 2, 3, 4, 5]
    assert all(1 <= num_images <= 4 for _, _, num_images in timeline.steps)
    assert timeline.marks["started"] <= timeline.steps[0][0] and timeline.steps[-1][0] <= timeline.marks["denoised"]
    assert images[0].timeline is None


@pytest.mark.slow
def test_an_image_that_is_cancelled_has_the_stages_until_then(shared_batcher):
    timeline = ImageTimeline()
    image = shared_batcher.submit(GenerationRequest("a cat", steps=400), timeline=timeline)
    while "started" not in timeline.marks:
        assert not image.future.done()
    image.cancel()
    assert "denoised" not in timeline.marks and "drawn" not in timeline.marks
