"""The commands that run stages: demo, crawl, caption, latents, train, generate, serve, report, pipeline; and doctor."""

import functools
import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from emoji_ldm.errors import ConfigError
from ray_jobs.cli import crawl_tools
from ray_jobs.cli.command import AS_OF, Shortcut, configured, did_you_mean, new_app
from ray_jobs.cli.loopback import local_ray_on_loopback

if TYPE_CHECKING:
    from emoji_ldm.config import Config

app = new_app("Turn web pages of emoji into a versioned data set, a diffusion model and new emoji.")
stage = functools.partial(configured, app)
# As in `export`, which cannot be imported here: it would load the tables' libraries for a help text.
HUB_TOKEN = "HF_TOKEN"
REFRESH = Shortcut("refresh", "crawl.refresh=true", "Read all pages again, and fetch again what has changed since.")


def retry(stage: str) -> Shortcut:
    """Return the option by which a stage tries again what failed before."""
    return Shortcut("retry", f"{stage}.retry={{}}", "Try again what failed: `--retry failed`.", "failed")


def _training_stage(config: "Config", words: list[str]) -> "Config":
    """`train autoencoder` is a stage of its own, with a job file of its own; `train plan` starts nothing."""
    known = ["autoencoder", "plan"]
    if words and words not in ([name] for name in known):
        # The first word that is wrong: after one that is known nothing may follow.
        wrong = words[0] if words[0] not in known else words[1]
        near = did_you_mean(wrong, known) or "; options are written as section.field=value"
        raise ConfigError(f"train does not take {wrong!r}{near}")
    return config


def _add_prompts(config: "Config", words: list[str]) -> "Config":
    # Validated again, so that prompts from the command line obey the same rules as those of a file. Words are added to
    # configured prompts instead of replacing them.
    values = config.model_dump()
    values["generate"]["prompts"] = [*config.generate.prompts, *words]
    return type(config).model_validate(values)


def _pipeline_stages(config: "Config", words: list[str]) -> "Config":
    from ray_jobs.pipeline import stages_of

    # Only for its errors: a dry run, too, must refuse a stage that does not exist.
    stages_of(words)
    return config


@stage("demo", examples=["emoji-ldm demo"])
def demo(config: "Config", words: list[str]) -> None:
    """Run every stage on a small local emoji site, then write the report."""
    from ray_jobs.demo import run

    run(config)


@stage(
    "crawl",
    shortcuts=[REFRESH, retry("crawl")],
    examples=[
        "emoji-ldm crawl crawl.site=https://example.org 'crawl.tags=[Blobs, Cat]'",
        "emoji-ldm crawl --config my.yaml store=s3://bucket/emoji crawl.num_browsers=16",
        "emoji-ldm crawl --config my.yaml --retry failed",
        "emoji-ldm crawl probe https://example.org/emoji/Blobs -o blobs.yaml",
        "emoji-ldm crawl outcomes --config my.yaml",
    ],
)
def crawl(config: "Config", words: list[str]) -> None:
    """Read listing pages with headless browsers; fetch and normalize every image once."""
    _run("crawl", config)


# Here, so that the list of `--help` names them after `crawl`.
crawl_tools.add_commands(app)


@stage(
    "caption",
    shortcuts=[retry("caption"), AS_OF],
    examples=[
        "emoji-ldm caption",
        "emoji-ldm caption caption.engine=qwen2.5-vl caption.model=Qwen/Qwen2.5-VL-7B-Instruct \\",
        "      caption.gpus_per_worker=1",
    ],
)
def caption(config: "Config", words: list[str]) -> None:
    """Describe every image that has no caption yet."""
    _run("caption", config)


@stage(
    "latents",
    shortcuts=[AS_OF],
    examples=[
        "emoji-ldm latents",
        "emoji-ldm latents latents.vae=stabilityai/sd-vae-ft-mse latents.gpus_per_worker=1",
    ],
)
def latents(config: "Config", words: list[str]) -> None:
    """Encode images and captions once into the tensors that training reads."""
    _run("latents", config)


@stage(
    "train",
    words="autoencoder | plan",
    prepare=_training_stage,
    shortcuts=[AS_OF],
    examples=[
        "emoji-ldm train autoencoder",
        "emoji-ldm train plan train.num_workers=8 train.gpus_per_worker=1",
        "emoji-ldm train train.zero_stage=2 train.num_workers=8 train.gpus_per_worker=1",
        "emoji-ldm train --config dreambooth 'train.dreambooth.concepts=[{instance_prompt: a zwx dog, \\",
        "      instance_folder: photos, class_prompt: a dog}]'",
        "emoji-ldm train --export ./my-pipeline",
        "emoji-ldm train --export ./raw --weights raw --checkpoint checkpoints/demo/unet/step-00000250-0a1b2c3d",
        "emoji-ldm train --export ./my-pipeline --push me/my-emoji",
        "emoji-ldm train --alias production",
        "emoji-ldm train autoencoder --export ./my-vae",
    ],
)
def train(  # noqa: PLR0913  # one parameter per option
    config: "Config",
    words: list[str],
    export: Annotated[
        str,
        typer.Option(metavar="DIR", help="Train nothing: write a folder that DiffusionPipeline.from_pretrained opens."),
    ] = "",
    weights: Annotated[
        Literal["ema", "ema2", "raw"],
        typer.Option(
            help="What --export writes: averaged weights, averaged over the second of train.ema_widths, or raw.",
        ),
    ] = "ema",
    checkpoint: Annotated[
        str,
        typer.Option(metavar="PATH|URI", help="The checkpoint for --export and --alias; the run's newest by default."),
    ] = "",
    alias: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Train nothing: give the checkpoint a name, or move the name to it; serve.checkpoint=alias:NAME then "
            "means it, and it is never pruned.",
        ),
    ] = "",
    push: Annotated[
        str,
        typer.Option(
            metavar="OWNER/NAME",
            help=f"Upload the exported folder to this model on the Hugging Face hub; the token is in {HUB_TOKEN}.",
        ),
    ] = "",
) -> int | None:
    """Train the diffusion model or, with `autoencoder`, the RGBA autoencoder; an interrupted run is resumed.

    `plan` trains nothing: it says how much memory and disk the training needs, and which options make it fit.
    """
    from ray_jobs.cli.export import CheckpointOptions, export_or_alias

    if words == ["plan"]:
        from ray_jobs.cli.train_plan import print_plan

        return print_plan(config)
    # The word is also the name of the module in `ray_jobs` and of the section in the configuration.
    section = words[0] if words else "train"
    # These options are no configuration: they say what this one command does, and a run's manifest must not contain
    # them.
    options = CheckpointOptions(export, weights, checkpoint, alias, push)
    # Decided before `_run`, which connects to Ray and waits for GPUs.
    if options.trains_nothing():
        return export_or_alias(config, section, options)
    _run(section, config)
    return None


@stage(
    "generate",
    words="prompt",
    prepare=_add_prompts,
    examples=[
        "emoji-ldm generate 'happy cat with sunglasses' -o cat.png",
        "emoji-ldm generate 'a happy blob' 'a green cat' generate.num_images=4",
        "emoji-ldm generate generate.prompts_file=prompts.txt generate.seed=7 generate.guidance_scale=4",
    ],
)
def generate(
    config: "Config",
    words: list[str],
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE.png|DIR", help="Draw in this process, without Ray and without the table."
        ),
    ] = "",
) -> None:
    """Draw emoji from prompts: transparent PNGs, a table and a contact sheet."""
    if not output:
        _run("generate", config)
        return
    from emoji_ldm.generate.local_generation import generate_locally
    from emoji_ldm.progress import print_summary

    print_summary("generate", generate_locally(config, output))


@stage(
    "serve",
    examples=[
        "emoji-ldm serve serve.port=8000",
        "emoji-ldm serve serve.checkpoint=./my-pipeline serve.max_replicas=8",
        "emoji-ldm serve serve.checkpoint=alias:production serve.reload_s=60 'serve.models={sd: ./sd-pipeline}'",
    ],
)
def serve(config: "Config", words: list[str]) -> None:
    """Answer OpenAI's Images API and draw bulk sets with Ray Serve."""
    with local_ray_on_loopback(config.ray):
        _run("serve", config)


@stage("report", shortcuts=[AS_OF], examples=["emoji-ldm report run=demo"])
def report(config: "Config", words: list[str]) -> None:
    """Write runs/<run>/report.html: data, captions, loss, generated emoji, versions."""
    _run("report", config)


@stage(
    "pipeline",
    words="stage",
    prepare=_pipeline_stages,
    examples=[
        "emoji-ldm pipeline --config my.yaml",
        "emoji-ldm pipeline crawl caption latents --config my.yaml crawl.refresh=true",
        "emoji-ldm pipeline train generate report train.steps=20000 store=s3://bucket/emoji",
    ],
)
def pipeline(config: "Config", words: list[str]) -> None:
    """Run all stages, or those named, one after the other; what is done already is not done again."""
    from ray_jobs.pipeline import run

    run(config, words)


@stage("doctor", examples=["emoji-ldm doctor", "emoji-ldm doctor store=s3://bucket/emoji"])
def doctor(config: "Config", words: list[str]) -> int:
    """Report what this machine has and lacks, with the command that installs what is missing."""
    from ray_jobs.cli.doctor import print_checks

    return print_checks(config)


def _run(stage: str, config: "Config") -> None:
    # Loading Ray takes seconds, in which a user would see nothing. Not `print_status`, which loads a library first.
    sys.stderr.write(f"{stage}: starting\n")
    # Imported only now, because it brings Ray, and help texts must not wait for that.
    from ray_jobs.pipeline import run_stage

    run_stage(stage, config)
