"""The command `evaluate`: models or a folder of pictures, gates, and the result as a table or JSON."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from emoji_ldm.errors import GateError
from ray_jobs.cli.command import AS_OF, Shortcut, configured

if TYPE_CHECKING:
    from emoji_ldm.config import Config

SHORTCUTS = (
    Shortcut("compare", "evaluate.compare=true", "Also draw the fixed prompt grid with each model, side by side."),
    Shortcut("images", "evaluate.images={}", "Judge the PNG files of this folder instead of a model.", "DIR"),
    Shortcut("fail-if", "evaluate.fail_if={}", "Exit with status 3 if this is true of a model.", "'kid > 0.05'"),
    AS_OF,
)


def add_command(app: typer.Typer) -> None:
    """Add `evaluate` to the commands."""
    configured(
        app,
        "evaluate",
        words="checkpoint",
        prepare=_add_models,
        shortcuts=SHORTCUTS,
        examples=[
            "emoji-ldm evaluate run=demo",
            "emoji-ldm evaluate --compare ./pretrained ./from-scratch alias:production generate.steps=25",
            "emoji-ldm evaluate starter retrieval",
            "emoji-ldm evaluate --images ./pictures evaluate.reference=all --json",
            "emoji-ldm evaluate --fail-if 'kid > 0.05, copy_rate > 0.1'",
        ],
    )(evaluate)


def evaluate(
    config: "Config",
    words: list[str],
    json: Annotated[bool, typer.Option("--json", help="Print the whole evaluation as JSON.")] = False,
) -> None:
    """Judge models by figures: likeness to real emoji, text, transparency, copies, cost; a page with pictures."""
    # Imported only now, because it brings Ray, and help texts must not wait for that.
    from ray_jobs.pipeline import run_stage

    try:
        run_stage("evaluate", config)
    except GateError:
        # A gate fails only after the evaluation was kept: its figures are the answer to why.
        if json:
            _print_newest(config)
        raise
    if json:
        _print_newest(config)


def _add_models(config: "Config", words: list[str]) -> "Config":
    """Take words for names of models; gates are checked here, so that a dry run refuses a wrong one too."""
    from emoji_ldm.evaluate.figures import QualityGate

    for gate in config.evaluate.fail_if:
        QualityGate.parse(gate)
    values = config.model_dump()
    values["evaluate"]["checkpoints"] = [*config.evaluate.checkpoints, *words]
    return type(config).model_validate(values)


def _print_newest(config: "Config") -> None:
    from emoji_ldm.evaluate.evaluation import newest_evaluation
    from emoji_ldm.store import Store

    if found := newest_evaluation(Store(config.store), config.run):
        sys.stdout.write(f"{found.to_json()}\n")
