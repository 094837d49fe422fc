"""What a run of `generate` wants drawn, and the key by which it knows what is drawn already."""

from __future__ import annotations

from pathlib import Path

from emoji_ldm.config import GenerateConfig, key_of
from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.draw import MAX_SEED, Draw


def wanted_draws(config: GenerateConfig) -> list[Draw]:
    """Every draw of the configuration, prompt by prompt; a prompt given twice counts once.

    Raises:
        ConfigError: There is no prompt, the file cannot be read, or the last seed is too large.
    """
    prompts = list(dict.fromkeys(prompt.strip() for prompt in (*config.prompts, *_lines(config.prompts_file))))
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
    return [
        Draw(prompt, config.negative_prompt, config.seed + index, config.steps, config.guidance_scale)
        for prompt in prompts
        for index in range(config.num_images)
    ]


def generated_id(model_key: str, draw: Draw, batch_size: int) -> str:
    """Key of a picture: everything that its bits depend on."""
    return key_of(
        model_key, draw.prompt, draw.negative_prompt, draw.seed, draw.steps, float(draw.guidance_scale), batch_size
    )


def _lines(path: str) -> list[str]:
    if not path:
        return []
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"generate.prompts_file={path}: {error}; give a text file with one prompt per line") from None
