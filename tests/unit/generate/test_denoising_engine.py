"""Rows in flight: what a row becomes depends on nothing but its own draw."""

import random

import numpy as np
import pytest
import torch

from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.denoising_engine import DenoisingEngine, StepTimer, TimedStep
from emoji_ldm.generate.encode_decode import EncoderDecoder, preview_steps
from emoji_ldm.generate.offline_sampler import OfflineSampler
from emoji_ldm.generate.pipeline_loader import load_model
from emoji_ldm.generate.request import GenerationRequest
from tests.generation_requests import mask_png, mixed_requests, noise_png
from tests.tiny_pipelines import write_pipeline

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(write_pipeline(tmp_path_factory.mktemp("small") / "pipeline", size_px=16), "cpu")


def run(engine, stages, draws, chance):
    """Latents of draws whose rows join, pause and leave at random."""
    waiting, running, done = list(draws), {}, {}
    while waiting or running:
        while waiting and (not running or chance.random() < 0.6):
            draw = waiting.pop()
            running[stages.row(draw)] = draw
        rows = chance.sample(list(running), min(len(running), chance.randint(1, engine.batch_size)))
        engine.tick(rows)
        done |= {running.pop(row): row.x for row in rows if not row.left}
    return done


def compositions(model, count):
    chance, draws = random.Random(count), mixed_requests()
    engine, stages = DenoisingEngine(model, 4, strict=True), EncoderDecoder(model, 4, strict=True)
    alone = {draw: latents for draw in draws for latents in run(engine, stages, [draw], chance).values()}
    for _ in range(count):
        chosen = chance.sample(draws, chance.randint(2, 7))
        for draw, latents in run(engine, stages, chosen, chance).items():
            assert torch.equal(latents, alone[draw]), draw
    return engine, stages, alone


def test_a_row_gives_the_same_bits_in_any_company_slot_and_pace(model):
    compositions(model, 10)


@pytest.mark.long
def test_a_row_gives_the_same_bits_in_200_compositions(model):
    compositions(model, 200)


def test_fast_mode_stays_close_to_strict(model):
    draws, chance = mixed_requests()[::2], random.Random(1)
    strict, fast = (run(DenoisingEngine(model, 4, strict=strict), EncoderDecoder(model, 4, strict=strict), draws, chance)
                    for strict in (True, False))  # fmt: skip
    for draw in draws:
        torch.testing.assert_close(fast[draw], strict[draw], rtol=1e-3, atol=1e-3)


def test_the_offline_sampler_gives_the_bits_of_the_engine_for_draws_of_all_sizes(model):
    large = GenerationRequest("a cat", seed=5, steps=3, width_px=32, height_px=16)
    draws = [large, *mixed_requests()[::3], *mixed_requests()[-2:]]
    engine, stages = DenoisingEngine(model, 4, strict=True), EncoderDecoder(model, 4, strict=True)
    alone = [latents for draw in draws for latents in run(engine, stages, [draw], random.Random(0)).values()]
    pictures = OfflineSampler(model, 4)(draws)
    assert pictures[0].shape == (16, 32, 4)
    for latents, drawn in zip(alone, pictures, strict=True):
        np.testing.assert_array_equal(stages.pictures([latents])[0], drawn)


def test_strict_passes_have_one_shape_and_fast_ones_as_many_rows_as_there_are(model):
    strict, fast = (DenoisingEngine(model, 4, strict=mode) for mode in (True, False))
    assert {tuple(strict.network.passes(count)) for count in range(1, 9)} == {(4,), (4, 4)}
    counts = ((1, 0), (1, 1), (3, 1), (4, 4))
    assert [fast.cost(rows, guided, model.latent_shape) for rows, guided in counts] == [1, 2, 4, 8]


def test_larger_pictures_take_the_room_of_several(model):
    engine = DenoisingEngine(model, 4, strict=True)
    sides = ((4, 4), (8, 8), (8, 16), (16, 16))
    assert [engine.most((4, *side)) for side in sides] == [4, 4, 2, 1]
    assert engine.cost(1, 1, (4, 16, 16)) == 2


def test_steps_of_a_gpu_are_timed_between_its_events_when_they_are_done(monkeypatch):
    log, now = [], iter(range(100))

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = next(now)

        def synchronize(self):
            log.append(self.at)

        def elapsed_time(self, last):
            return 1000.0 * (last.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    clock = StepTimer(on_gpu=True)
    for num_rows in (1, 2, 3, 4):
        with clock.step((4, 8, 8), num_rows, 2 * num_rows):
            next(now)
    assert log == [2, 5]  # the step before last
    assert clock.take() == [TimedStep((4, 8, 8), rows, 2 * rows, 2.0) for rows in (1, 2)] and clock.take() == []


def test_previews_come_nearer_to_the_picture(model):
    engine, stages = DenoisingEngine(model, 4, strict=True), EncoderDecoder(model, 4, strict=True)
    row, seen = stages.row(GenerationRequest("a cat", steps=12), 3), []
    while row.left:
        seen += [(row.index, latents) for _, latents in engine.tick([row])]
    assert [index for index, _ in seen] == [4, 7, 10]
    distances = [float((latents - row.x).norm()) for _, latents in seen]
    assert distances == sorted(distances, reverse=True)


@pytest.mark.parametrize(("steps", "wanted"), [(1, set()), (2, {0}), (10, {2, 5, 7})])
def test_looks_are_spread_over_the_steps_before_the_last(steps, wanted):
    assert preview_steps(steps, 3) == wanted


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"width_px": 7}, "width_px=7 is refused: this model draws multiples of 4 up to 32"),
        ({"height_px": 64}, "height_px=64"),
        ({"steps": 10_000}, "steps=10000"),
        ({"scheduler": "plms"}, "scheduler=plms"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan"),
        ({"seed": -1}, "seed=-1"),
        ({"mask": b"x"}, "mask needs the image"),
    ],
)
def test_draws_that_cannot_be_made_are_refused_with_what_can(model, changes, text):
    with pytest.raises(ConfigError, match=text):
        EncoderDecoder(model, 4, strict=True).check(GenerationRequest(**{"prompt": "a cat", **changes}))


def test_a_started_picture_keeps_what_its_strength_leaves(model):
    near, far = (OfflineSampler(model, 4).latents([GenerationRequest("a dog", steps=10, image=noise_png(), strength=strength)])[0]
                 for strength in (0.2, 0.9))  # fmt: skip
    stages = EncoderDecoder(model, 4, strict=True)
    origin = stages.row(
        GenerationRequest("a dog", steps=10, image=noise_png(), mask=mask_png(), strength=0.2)
    ).start.known
    assert float((near - origin).norm()) < float((far - origin).norm())
