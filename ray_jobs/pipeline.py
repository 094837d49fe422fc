"""One stage or several: check the store, run, measure, print a summary and the next command.

`emoji-ldm STAGE`, `emoji-ldm pipeline` and `emoji-ldm demo` all come here. A stage's word is the name of the module
that runs it: `ray_jobs.crawl`, `ray_jobs.caption` and so on.
"""

from __future__ import annotations

import difflib
import importlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise

from emoji_ldm.config import Config
from emoji_ldm.errors import ConfigError, EmojiLdmError
from emoji_ldm.progress import print_status, print_summary
from emoji_ldm.store import Store
from ray_jobs.cli.command import split_words
from ray_jobs.execution.resource_usage import measure_stage

# The autoencoder stands before the latents that it encodes, and after captions only for people's convenience: it needs
# images alone.
STAGE_ORDER = ("crawl", "caption", "autoencoder", "latents", "train", "generate", "report")
NEXT_COMMANDS = {
    "crawl": "caption",
    "caption": "train autoencoder",
    "autoencoder": "latents",
    "latents": "train",
    "train": "generate 'a happy blob'",
    "generate": "report",
}


def run(config: Config, words: Sequence[str] = ()) -> None:
    """Run the stages that are named, or all; each finds by itself what an earlier run has finished.

    Raises:
        ConfigError: As `stages_of`; or generate has nothing to draw, which would otherwise be noticed only after days
            of training.
        EmojiLdmError: The first stage that fails, with its own type and exit status; later stages do not run.
    """
    stages = stages_of(words)
    # If generate comes first, it says so itself at once.
    if "generate" in stages[1:]:
        from emoji_ldm.generate.request import plan_requests

        try:
            plan_requests(config.generate)
        except ConfigError as error:
            raise ConfigError(f"nothing was run, since generate would stop: {error}") from None
    run_stages(stages, config)


def stages_of(words: Sequence[str]) -> tuple[str, ...]:
    """Return the stages named, in the order of the flow; all of them if none is named.

    Raises:
        ConfigError: There is no such stage, or one is named twice.
    """
    for word in words:
        if word not in STAGE_ORDER:
            near = difflib.get_close_matches(word, STAGE_ORDER, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"pipeline has no stage {word!r}{hint} (the stages are: {' '.join(STAGE_ORDER)})")
        if words.count(word) > 1:
            raise ConfigError(f"pipeline runs {word} once; name it once")
    # The order of the flow wins over the order of the words: no stage could run before the one that feeds it.
    return tuple(stage for stage in STAGE_ORDER if stage in words) or STAGE_ORDER


def run_stages(stages: Sequence[str], config: Config) -> None:
    """Run stages as `run` does, in the order given, with a headline before each."""
    from ray_jobs.execution.ray_runtime import release_resources

    for number, stage in enumerate(stages, 1):
        print_status(f"\n=== {number}/{len(stages)} {stage} ===")
        try:
            run_stage(stage, config)
        except EmojiLdmError as error:
            left = f"; not run: {' '.join(stages[number:])}" if stages[number:] else ""
            # The arguments are replaced instead of raising another error: its type carries the exit status, and --debug
            # keeps the trace.
            error.args = (f"stopped at {stage}: {error}{left}; the same command goes on from there",)
            raise
        # Otherwise an autoscaler would keep the GPU nodes of this stage through the next one.
        release_resources()


def run_stage(stage: str, config: Config) -> None:
    """Run a stage by its word (`autoencoder` for `train autoencoder`) and print its summary."""
    # Checked before any work: a missing credential must not be found after an hour, at the first commit.
    Store(config.store, config.branch).check_writable()
    # A stage imports its libraries only now: crawling needs no torch, captioning no diffusers.
    job = importlib.import_module(f"ray_jobs.{stage}")
    # A service runs until Ctrl-C and makes no table, so it has neither a summary nor a place in the report.
    if stage == "serve":
        job.run(config)
        return
    with measure_stage(config, stage) as facts:
        facts["summary"] = {name: _text(value) for name, value in job.run(config).items()}
    # The report reads the same facts from the store, so the summary on the terminal and the report cannot differ.
    values = {**facts["summary"], "time": f"{facts['seconds']:.1f} s", "peak memory": f"{facts['peak_mb']:,.0f} MB"}
    print_summary(stage, values, _next_command(stage))


def _next_command(stage: str) -> str:
    """Return the command that continues from here, with the user's configuration; empty within demo and pipeline."""
    # Within demo and pipeline the next stage starts by itself, so a command to type would mislead.
    if stage not in NEXT_COMMANDS or sys.argv[1:2] in (["demo"], ["pipeline"]):
        return ""
    words = sys.argv[1:]
    options = [f"--config {shlex.quote(value)}" for flag, value in pairwise(words) if flag in ("-c", "--config")]
    options += [f"--config {shlex.quote(word.removeprefix('--config='))}" for word in words
                if word.startswith("--config=")]  # fmt: skip
    # `--as-of` is an option of some stages only, and the field behind it one of all.
    options += [shlex.quote(f"as_of={value}") for flag, value in pairwise(words) if flag == "--as-of"]
    # What was set for other stages is repeated: training needs `latents.vae=...` of the latents as they do. Settings of
    # the stage that has ended have had their effect, except for those of the latents, which name their models.
    spent = f"{stage}." if stage != "latents" else "-"
    overrides = [word for word in split_words(words)[1] if not word.startswith(spent)]
    return " ".join(["emoji-ldm", NEXT_COMMANDS[stage], *options, *map(shlex.quote, overrides)])


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(count)}" for name, count in value.items())
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
