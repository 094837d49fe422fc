"""The requests of a `generate` run, and the key that tells which of them are done already."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from emoji_ldm.config import GenerateConfig, key_of
from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.image_inputs import check_image_inputs
from emoji_ldm.generate.request import CORE_FIELDS, MAX_SEED, GenerationRequest, request_settings


def plan_requests(config: GenerateConfig) -> list[GenerationRequest]:
    """All requests of a configuration, ordered by prompt, then by seed. Repeated prompts count once.

    Raises:
        ConfigError: There is no prompt, a file cannot be read, or the last seed exceeds `MAX_SEED`.
    """
    # A dict keeps the first occurrence of each prompt, in order. Repeated prompts would have the same id and the same
    # pixels.
    prompts = list(dict.fromkeys(prompt.strip() for prompt in (*config.prompts, *_read_prompts(config.prompts_file))))
    prompts = [prompt for prompt in prompts if prompt]
    if not prompts:
        raise ConfigError(
            "no prompts; name them (emoji-ldm generate 'a happy blob' 'a green cat') "
            "or give a file with one per line (generate.prompts_file=prompts.txt)"
        )
    if config.seed + config.num_images - 1 > MAX_SEED:
        raise ConfigError(
            f"generate.seed={config.seed} is too large for {config.num_images} images: at most {MAX_SEED}"
        )
    template = _request_template(config)
    # A bad image fails here, before Ray starts and a model is loaded.
    check_image_inputs(template)
    return [
        replace(template, prompt=prompt, seed=config.seed + index)
        for prompt in prompts
        for index in range(config.num_images)
    ]


def generated_id(model_key: str, request: GenerationRequest, batch_size: int, *, deterministic: bool = True) -> str:
    """Key of a generated image: a hash of everything that its bits depend on.

    Stored tables hold these keys, so their inputs never change: a plain request hashes its core fields by position,
    settings that differ from their default are appended by name, and the fast mode appends `{"mode": "fast"}`.

    Args:
        model_key: Key of the model; for a request with an adapter, what `lora_key` returns.
        request: The request.
        batch_size: Rows per forward pass. Kernels are chosen by shape, so the last bits depend on it.
        deterministic: Whether forward passes have one fixed shape.
    """
    settings = request_settings(request)
    special = {name: value for name, value in settings.items() if name not in CORE_FIELDS}
    if not deterministic:
        special["mode"] = "fast"
    # float(...) because 3 and 3.0 are equal settings but are hashed as different texts.
    return key_of(
        model_key, request.prompt, request.negative_prompt, request.seed, request.steps,
        float(request.guidance_scale), batch_size, *([special] if special else []),
    )  # fmt: skip


def _request_template(config: GenerateConfig) -> GenerationRequest:
    """What all requests of a configuration share."""
    return GenerationRequest(
        prompt="",
        negative_prompt=config.negative_prompt,
        steps=config.steps,
        guidance_scale=config.guidance_scale,
        # Unset options are null in the configuration and "" or 0 in a request, whose values are part of stored ids.
        scheduler=config.scheduler or "",
        width_px=config.width_px or 0,
        height_px=config.height_px or 0,
        image=_read_image("image", config.image),
        mask=_read_image("mask", config.mask),
        # Inpainting repaints its region completely unless asked otherwise; image-to-image keeps part of the image.
        strength=config.strength or (1.0 if config.mask else GenerationRequest.strength),
        lora=Path(config.lora or "").name,
    )


def _read_image(name: str, path: str | None) -> bytes:
    if not path:
        return b""
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise ConfigError(f"generate.{name}={path}: {error}; give an image file") from None


def _read_prompts(path: str | None) -> list[str]:
    if not path:
        return []
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"generate.prompts_file={path}: {error}; give a text file with one prompt per line") from None
