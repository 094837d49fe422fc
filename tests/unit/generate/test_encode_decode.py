"""Encoding requests and decoding latents."""

import pytest
import torch

from emoji_ldm.errors import ConfigError
from emoji_ldm.generate import encode_decode
from emoji_ldm.generate.encode_decode import EncoderDecoder, preview_steps
from emoji_ldm.generate.offline_sampler import OfflineSampler
from emoji_ldm.generate.request import GenerationRequest
from tests.generation_requests import mask_png, noise_png


@pytest.fixture
def exact(small_model):
    return EncoderDecoder(small_model, 4, deterministic=True)


@pytest.fixture
def fast(small_model):
    return EncoderDecoder(small_model, 4, deterministic=False)


@pytest.mark.parametrize(("steps", "expected"), [(1, set()), (2, {0}), (10, {2, 5, 7})])
def test_previews_are_spread_over_the_steps_before_the_last(steps, expected):
    assert preview_steps(steps, 3) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
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
def test_unsupported_requests_are_refused_with_what_is_supported(exact, changes, message):
    with pytest.raises(ConfigError, match=message):
        exact.check(GenerationRequest(**{"prompt": "a cat", **changes}))


def test_a_request_without_guidance_needs_no_negative_prompt(exact):
    assert exact.encode(GenerationRequest("a", "b", guidance_scale=1.0)).negative is None
    assert exact.encode(GenerationRequest("a", "b", guidance_scale=2.0)).negative.shape == (16, 32)


def test_prompts_are_encoded_once_and_forgotten_when_they_were_not_used_for_long(exact, monkeypatch):
    monkeypatch.setattr(encode_decode, "PROMPT_CACHE_SIZE", 2)
    first = exact.encode(GenerationRequest("a", "b")).positive
    assert exact.encode(GenerationRequest("a", "b")).positive is first
    exact.encode(GenerationRequest("c", "a"))  # "b" was used longest ago
    assert list(exact._prompt_cache) == ["c", "a"]


def test_only_the_fast_mode_encodes_prompts_together(exact, fast):
    requests = [GenerationRequest("a", "b"), GenerationRequest("c", "b")]
    for encoder_decoder, cached in ((exact, []), (fast, ["a", "b", "c"])):
        encoder_decoder.encode_prompts(requests)
        assert list(encoder_decoder._prompt_cache) == cached


def test_the_deterministic_mode_decodes_one_by_one_on_a_cpu(exact, fast, monkeypatch):
    assert (exact.max_decode_batch((4, 8, 8)), fast.max_decode_batch((4, 8, 8))) == (1, 4)
    monkeypatch.setattr(encode_decode, "MAX_DECODE_PIXELS", 2 * 16 * 16)
    assert fast.max_decode_batch((4, 8, 8)) == 2


def test_decoding_in_batches_changes_next_to_nothing(exact, fast):
    latents = list(torch.randn((5, 4, 8, 8), generator=torch.Generator().manual_seed(0)))
    for one, other in zip(exact.decode(latents), fast.decode(latents), strict=True):
        assert abs(one.astype(int) - other.astype(int)).max() <= 1


def test_image_to_image_keeps_what_its_strength_leaves(small_model, exact):
    def latents(strength):
        request = GenerationRequest("a dog", steps=10, image=noise_png(), strength=strength)
        return OfflineSampler(small_model, 4).latents([request])[0]

    request = GenerationRequest("a dog", steps=10, image=noise_png(), mask=mask_png(), strength=0.2)
    origin = exact.encode(request).initial.image_latents
    assert float((latents(0.2) - origin).norm()) < float((latents(0.9) - origin).norm())
