"""The last part of the demo, where the starter is packaged: fine-tune it on what was crawled, and compare three models.

The sheet shows the pictures of each prompt and seed side by side, from three models: trained from scratch in the demo,
the starter as packaged, and the starter after two minutes on the crawled emoji.
"""

from __future__ import annotations

from pathlib import Path

from emoji_ldm.config import Config, build, load
from emoji_ldm.dataset.checkpoints import newest_checkpoint
from emoji_ldm.evaluate.report import DEMO_SHEET
from emoji_ldm.generate.output_folder import contact_sheet
from emoji_ldm.latents.starter_model import STARTER, is_packaged
from emoji_ldm.progress import print_status
from emoji_ldm.store import Store
from ray_jobs import generate, report
from ray_jobs.pipeline import run_stages

PRESET = "finetune-starter"
# Two minutes on two busy cores. The learning rate is that of the preset, and decays within them.
TRAINING = {"steps": 150, "batch_size": 24, "num_workers": 2, "zero_stage": 0, "warmup_steps": 10,
            "checkpoint_every": 150, "keep_last": 1, "ema_decay": 0.98, "sample_every": None}  # fmt: skip

PROMPTS_PER_ROW = 3


def compare_with_starter(config: Config) -> None:
    """Fine-tune the starter on the store's emoji and write the sheet; without packaged weights do nothing.

    Args:
        config: Of the demo, whose stages are done: store, run, prompts and seeds are taken from it.

    Raises:
        EmojiLdmError: As the stages `latents`, `train` and `generate`.
    """
    if not is_packaged():
        return
    print_status("\nThe packaged starter model is fine-tuned on the crawled emoji for two minutes.")
    tuned = tuned_config(config)
    run_stages(("latents", "train"), tuned)
    path = Path("runs", config.run, DEMO_SHEET)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = comparison_sheet({
        "from scratch": drawn_by(config, None, config.generate.scheduler),
        STARTER: drawn_by(tuned, STARTER, "dpmpp_2m"),
        "fine-tuned": drawn_by(tuned, None, "dpmpp_2m"),
    })  # fmt: skip
    path.write_bytes(sheet)
    Store(config.store).write(sheet, "runs", config.run, DEMO_SHEET)
    # Written before the sheet was there.
    report.run(config)
    print_status(f"from scratch, starter and fine-tuned side by side: {path}")


def tuned_config(config: Config) -> Config:
    """The configuration of fine-tuning: the demo's store and prompts under a run of its own, the preset's model."""
    preset, values = load(PRESET).model_dump(), config.model_dump()
    for section in ("latents", "train"):
        values[section] = preset[section]
    values["latents"] |= {"num_workers": config.latents.num_workers, "rows_per_shard": config.latents.rows_per_shard}
    values["train"] |= {**TRAINING, "sample_prompts": config.train.sample_prompts}
    return build({**values, "run": f"{config.run}-{STARTER}"}, where="the demo")


def drawn_by(config: Config, checkpoint: str | None, scheduler: str | None) -> list[tuple[bytes, str]]:
    """(PNG, prompt) of the configured prompts and seeds; a checkpoint of null is the newest of the run.

    Raises:
        UntrainedError: The run has none. The starter, which `generate` would take then, has a column of its own.
    """
    if checkpoint is None:
        checkpoint = newest_checkpoint(Store(config.store, config.branch), config.run, "unet").uri
    values = config.model_dump()
    values["generate"] |= {"checkpoint": checkpoint, "scheduler": scheduler}
    drawn = generate.draw(build(values, where="the demo"))
    return [(row["image"]["bytes"], row["prompt"]) for row in drawn.rows()]


def comparison_sheet(models: dict[str, list[tuple[bytes, str]]]) -> bytes:
    """PNG of the pictures of all models for each prompt and seed side by side, `PROMPTS_PER_ROW` prompts in a row."""
    cards = [
        (png, f"{name}: {prompt}")
        for drawn in zip(*models.values(), strict=True)
        for name, (png, prompt) in zip(models, drawn, strict=True)
    ]
    return contact_sheet(cards, columns=min(PROMPTS_PER_ROW * len(models), len(cards)))
