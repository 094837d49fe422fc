"""Planning a run: its requests, and the ids that tell which of them are done."""

from dataclasses import replace

import pytest

from emoji_ldm.config import GenerateConfig, key_of, load
from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.request import MAX_SEED, GenerationRequest
from emoji_ldm.generate.request_planner import generated_id, plan_requests
from tests.generation_requests import gray_png

REQUEST = GenerationRequest("ein fröhlicher Blob 😀", "traurig", seed=2**40, steps=12, guidance_scale=2.5)


def test_prompts_come_from_both_sources_once_each_with_consecutive_seeds(tmp_path):
    (tmp_path / "prompts.txt").write_text("a dog\n\n a cat \n")
    config = GenerateConfig(prompts=("a cat",), prompts_file=str(tmp_path / "prompts.txt"), num_images=2, seed=5)
    assert [(request.prompt, request.seed) for request in plan_requests(config)] == [
        ("a cat", 5), ("a cat", 6), ("a dog", 5), ("a dog", 6)]  # fmt: skip


def test_missing_prompts_are_reported_with_an_example(tmp_path):
    with pytest.raises(ConfigError, match="emoji-ldm generate 'a happy blob'"):
        plan_requests(GenerateConfig())
    with pytest.raises(ConfigError, match="one prompt per line"):
        plan_requests(GenerateConfig(prompts_file=str(tmp_path / "none.txt")))


def test_the_last_seed_must_fit_the_table():
    with pytest.raises(ConfigError, match=f"at most {MAX_SEED}"):
        plan_requests(GenerateConfig(prompts=("a",), seed=MAX_SEED, num_images=2))


def test_an_id_depends_on_everything_that_changes_pixels():
    ids = {generated_id("m", REQUEST, 8), generated_id("n", REQUEST, 8), generated_id("m", REQUEST, 4)}
    changes = [("prompt", "x"), ("negative_prompt", "x"), ("seed", 1), ("steps", 1), ("guidance_scale", 9.0)]
    ids |= {generated_id("m", GenerationRequest(**{**vars(REQUEST), name: value}), 8) for name, value in changes}
    special = [("scheduler", "euler"), ("width_px", 8), ("height_px", 8), ("image", b"a"), ("lora", "a")]
    ids |= {generated_id("m", replace(REQUEST, **{name: value}), 8) for name, value in special}
    ids |= {generated_id("m", replace(REQUEST, image=b"a", **more), 8) for more in ({"mask": b"b"}, {"strength": 0.5})}
    ids.add(generated_id("m", REQUEST, 8, deterministic=False))
    assert len(ids) == 8 + 5 + 2 + 1
    assert set(GenerationRequest.__dataclass_fields__) == {name for name, _ in changes + special} | {"mask", "strength"}


def test_an_id_ignores_what_changes_no_pixels():
    one, other = GenerationRequest("a", guidance_scale=3), GenerationRequest("a", guidance_scale=3.0)
    assert generated_id("m", one, 8) == generated_id("m", other, 8)
    assert generated_id("m", replace(REQUEST, strength=0.1), 8) == generated_id("m", REQUEST, 8)  # without an image


def test_ids_of_stored_images_never_change():
    request = GenerationRequest("a cat", "sad", 7, 20, 3.0)
    assert generated_id("m", request, 8) == key_of("m", "a cat", "sad", 7, 20, 3.0, 8)
    fast = generated_id("m", replace(request, width_px=8), 8, deterministic=False)
    assert fast == key_of("m", "a cat", "sad", 7, 20, 3.0, 8, {"width_px": "8", "mode": "fast"})


def test_every_request_has_the_image_size_scheduler_and_adapter_of_the_configuration(tmp_path):
    (tmp_path / "cat.png").write_bytes(gray_png(9))
    (tmp_path / "mask.png").write_bytes(gray_png(255))
    files = {"image": str(tmp_path / "cat.png"), "mask": str(tmp_path / "mask.png")}
    plain = GenerateConfig(prompts=("a", "b"), scheduler="lcm", width_px=64, lora="/art/pixels", image=files["image"])
    assert [replace(request, prompt="") for request in plan_requests(plain)] == [
        GenerationRequest("", scheduler="lcm", width_px=64, image=gray_png(9), strength=0.8, lora="pixels")
    ] * 2
    assert plan_requests(GenerateConfig(prompts=("a",), **files))[0].strength == 1
    assert plan_requests(GenerateConfig(prompts=("a",), **files, strength=0.3))[0].strength == 0.3


def test_images_of_the_configuration_are_checked_before_anything_is_generated(tmp_path):
    (tmp_path / "x.png").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"generate.image=.*none.png: .*give an image file"):
        plan_requests(GenerateConfig(prompts=("a",), image=str(tmp_path / "none.png")))
    with pytest.raises(ConfigError, match="image cannot be read"):
        plan_requests(GenerateConfig(prompts=("a",), image=str(tmp_path / "x.png")))


@pytest.mark.parametrize("override", ["mask=a.png", "strength=0.5"])
def test_options_of_an_image_are_refused_without_one(override):
    with pytest.raises(ConfigError, match=r"generate\.\w+=.* has no effect without generate.image"):
        load(overrides=[f"generate.{override}"])
