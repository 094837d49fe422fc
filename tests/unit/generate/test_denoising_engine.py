"""The engine: what becomes of a row depends on its own request only."""

import random

import numpy as np
import pytest
import torch

from emoji_ldm.generate.denoising_engine import DenoisingEngine
from emoji_ldm.generate.encode_decode import EncoderDecoder
from emoji_ldm.generate.offline_sampler import OfflineSampler
from emoji_ldm.generate.request import GenerationRequest
from tests.generation_requests import mixed_requests


def engine_and_encoder(model, *, deterministic=True):
    return (DenoisingEngine(model, 4, deterministic=deterministic),
            EncoderDecoder(model, 4, deterministic=deterministic))  # fmt: skip


def run(engine, encoder_decoder, requests, rng):
    """Latents of requests whose rows join, pause and leave at random."""
    waiting, running, done = list(requests), {}, {}
    while waiting or running:
        while waiting and (not running or rng.random() < 0.6):
            request = waiting.pop()
            running[encoder_decoder.encode(request)] = request
        rows = rng.sample(list(running), min(len(running), rng.randint(1, engine.batch_size)))
        engine.tick(rows)
        done |= {running.pop(row): row.x for row in rows if not row.steps_left}
    return done


def assert_bits_do_not_depend_on_company(model, num_compositions):
    rng, requests = random.Random(num_compositions), mixed_requests()
    engine, encoder_decoder = engine_and_encoder(model)
    alone = {}
    for request in requests:
        alone |= run(engine, encoder_decoder, [request], rng)
    for _ in range(num_compositions):
        chosen = rng.sample(requests, rng.randint(2, 7))
        for request, latents in run(engine, encoder_decoder, chosen, rng).items():
            assert torch.equal(latents, alone[request]), request


@pytest.mark.slow
def test_a_row_gives_the_same_bits_in_any_company_slot_and_pace(small_model):
    assert_bits_do_not_depend_on_company(small_model, 10)


@pytest.mark.long
def test_a_row_gives_the_same_bits_in_200_compositions(small_model):
    assert_bits_do_not_depend_on_company(small_model, 200)


@pytest.mark.slow
def test_the_fast_mode_stays_close_to_the_deterministic_one(small_model):
    requests, rng = mixed_requests()[::2], random.Random(1)
    exact = run(*engine_and_encoder(small_model), requests, rng)
    fast = run(*engine_and_encoder(small_model, deterministic=False), requests, rng)
    for request in requests:
        torch.testing.assert_close(fast[request], exact[request], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_the_offline_sampler_gives_the_bits_of_the_engine_for_requests_of_all_sizes(small_model):
    large = GenerationRequest("a cat", seed=5, steps=3, width_px=32, height_px=16)
    requests = [large, *mixed_requests()[::3], *mixed_requests()[-2:]]
    engine, encoder_decoder = engine_and_encoder(small_model)
    images = OfflineSampler(small_model, 4)(requests)
    assert images[0].shape == (16, 32, 4)
    for request, image in zip(requests, images, strict=True):
        latents = run(engine, encoder_decoder, [request], random.Random(0))[request]
        np.testing.assert_array_equal(encoder_decoder.decode([latents])[0], image)


def test_a_tick_computes_two_unet_rows_per_guided_image_and_one_per_other(small_model):
    engine = DenoisingEngine(small_model, 4, deterministic=False)
    counts = ((1, 0), (1, 1), (3, 1), (4, 4))
    assert [engine.num_unet_rows(*count, small_model.latent_shape) for count in counts] == [1, 2, 4, 8]


def test_larger_images_take_the_place_of_several(small_model):
    engine = DenoisingEngine(small_model, 4, deterministic=True)
    sides = ((4, 4), (8, 8), (8, 16), (16, 16))
    assert [engine.max_rows((4, *side)) for side in sides] == [4, 4, 2, 1]
    assert engine.num_unet_rows(1, 1, (4, 16, 16)) == 2


def test_a_row_reports_its_steps(small_model):
    engine, encoder_decoder = engine_and_encoder(small_model)
    row = encoder_decoder.encode(GenerationRequest("a cat", steps=3))
    assert (row.index, row.steps_left) == (0, 3)
    engine.tick([row])
    assert (row.index, row.steps_left) == (1, 2)


def test_evicted_rows_are_not_held_by_the_engine(small_model):
    engine, encoder_decoder = engine_and_encoder(small_model)
    engine.tick([encoder_decoder.encode(GenerationRequest("a cat", steps=3))])
    assert list(engine._batches) == [torch.Size((4, 8, 8))]
    engine.evict((4, 8, 8))
    assert not engine._batches


def test_previews_approach_the_image(small_model):
    engine, encoder_decoder = engine_and_encoder(small_model)
    row, seen = encoder_decoder.encode(GenerationRequest("a cat", steps=12), 3), []
    while row.steps_left:
        seen += [(row.index, latents) for _, latents in engine.tick([row])]
    assert [index for index, _ in seen] == [4, 7, 10]
    distances = [float((latents - row.x).norm()) for _, latents in seen]
    assert distances == sorted(distances, reverse=True)
