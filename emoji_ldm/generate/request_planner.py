"""What a run of `generate` wants drawn, and the key by which it knows what is drawn already."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from emoji_ldm.config import GenerateConfig, key_of
from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.image_inputs import check_image_inputs
from emoji_ldm.generate.request import CORE_FIELDS, MAX_SEED, GenerationRequest, request_settings


def plan_requests(config: GenerateConfig) -> list[GenerationRequest]:
    """Every draw of the configuration, prompt by prompt; a prompt given twice counts once.

    Raises:
        ConfigError: There is no prompt, a file cannot be read, or the last seed is too large.
    """
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
    example = _request_template(config)
    check_image_inputs(example)
    return [
        replace(example, prompt=prompt, seed=config.seed + index)
        for prompt in prompts
        for index in range(config.num_images)
    ]


def generated_id(model_key: str, draw: GenerationRequest, batch_size: int, *, strict: bool = True) -> str:
    """Key of a picture: everything that its bits depend on.

    Args:
        model_key: Of the model; of a draw with an adapter, what `lora_key` gives.
        draw: What is drawn.
        batch_size: Of the forward passes.
        strict: Whether their shape is fixed.
    """
    told = request_settings(draw)
    special = {name: told[name] for name in told if name not in CORE_FIELDS} | ({} if strict else {"mode": "fast"})
    return key_of(
        model_key, draw.prompt, draw.negative_prompt, draw.seed, draw.steps, float(draw.guidance_scale), batch_size,
        *([special] if special else []),
    )  # fmt: skip


def _request_template(config: GenerateConfig) -> GenerationRequest:
    """What all draws of a configuration share."""
    return GenerationRequest(
        "", config.negative_prompt, 0, config.steps, config.guidance_scale, config.scheduler or "",
        config.width_px or 0, config.height_px or 0, _read_image("image", config.image), _read_image("mask", config.mask),
        config.strength or (1.0 if config.mask else GenerationRequest.strength), Path(config.lora or "").name,
    )  # fmt: skip


def _read_image(name: str, path: str | None) -> bytes:
    if not path:
        return b""
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise ConfigError(f"generate.{name}={path}: {error}; give a picture file") from None


def _read_prompts(path: str | None) -> list[str]:
    if not path:
        return []
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"generate.prompts_file={path}: {error}; give a text file with one prompt per line") from None
