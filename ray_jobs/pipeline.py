"""The command `emoji-ldm pipeline`: several stages in one go. Only the standard library is imported until it runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from emoji_ldm.errors import ConfigError, EmojiLdmError

if TYPE_CHECKING:
    from emoji_ldm.config import Config

ORDER = ("crawl", "caption", "autoencoder", "latents", "train", "generate", "report")
TEXT = "run all stages, or those named, one after the other; what is done already is not done again"
EXAMPLES = (
    "emoji-ldm pipeline --config my.yaml\n"
    "  emoji-ldm pipeline crawl caption latents --config my.yaml crawl.refresh=true\n"
    "  emoji-ldm pipeline train generate report train.steps=20000 store=s3://bucket/emoji"
)


def add_pipeline(commands: Any, add: Callable[..., argparse.ArgumentParser]) -> None:
    """Put the command beside the others; `add` makes a command with the options that all have."""
    add(commands, "pipeline", TEXT, EXAMPLES, "[stage ...] [section.field=value ...]")


def stages_of(words: Sequence[str]) -> tuple[str, ...]:
    """The stages named, in the order of the flow; all of them if none is.

    Raises:
        ConfigError: There is no such stage, or one is named twice.
    """
    for word in words:
        if word not in ORDER:
            raise ConfigError(f"pipeline has no stage {word!r}; the stages are: {' '.join(ORDER)}")
        if words.count(word) > 1:
            raise ConfigError(f"pipeline runs {word} once; name it once")
    return tuple(stage for stage in ORDER if stage in words) or ORDER


def run(config: Config, words: Sequence[str] = ()) -> None:
    """Run the stages; each finds by itself what an earlier run has finished.

    Raises:
        ConfigError: As `stages_of`; or generate has nothing to draw, which would be told after days of training.
        EmojiLdmError: The first stage that fails, with its own kind and exit status; those after it do not run.
    """
    stages = stages_of(words)
    if "generate" in stages[1:]:
        from emoji_ldm.generate.plan import wanted_draws

        try:
            wanted_draws(config.generate)
        except ConfigError as error:
            raise ConfigError(f"nothing was run, since generate would stop: {error}") from None
    chain(stages, config)


def chain(stages: Sequence[str], config: Config) -> None:
    """Run stages as `run` does, in the order given, with a headline before each."""
    from emoji_ldm.progress import say
    from ray_jobs.cluster import release
    from ray_jobs.stages import run_stage

    for number, stage in enumerate(stages, 1):
        say(f"\n=== {number}/{len(stages)} {stage} ===")
        try:
            run_stage(stage, config)
        except EmojiLdmError as error:
            left = f"; not run: {' '.join(stages[number:])}" if stages[number:] else ""
            error.args = (f"stopped at {stage}: {error}{left}; the same command goes on from there",)
            raise
        release()
