"""The commands of `emoji-ldm adapters`: low-rank adapters out of models, and several as one. They need no Ray."""

from pathlib import Path
from typing import Annotated

import typer

from emoji_ldm.errors import ConfigError
from ray_jobs.cli.command import command, new_app

app = new_app(
    "Extract low-rank adapters (LoRA) from a fine-tuned model, and merge several into one.",
    "Extract and merge low-rank adapters (LoRA)",
)

Output = Annotated[str, typer.Option("--output", "-o", metavar="FOLDER", help="The folder to write.")]


@command(app, "extract", examples=["emoji-ldm adapters extract ./stable-diffusion ./mine --rank 16 -o ./adapter"])
def extract(
    base: Annotated[str, typer.Argument(metavar="BASE", help="Pipeline that was fine-tuned: a folder or hub id.")],
    tuned: Annotated[str, typer.Argument(metavar="TUNED", help="The fine-tuned pipeline.")],
    output: Output,
    rank: Annotated[int, typer.Option(metavar="N", help="Rank of the adapters; higher comes nearer.")] = 16,
) -> int:
    """Write the adapters nearest to what training changed in the network of BASE."""
    from emoji_ldm.model.adapter_algebra import extract_adapters, write_adapters
    from emoji_ldm.model.architectures.pretrained import load_whole_network

    if rank < 1:
        raise ConfigError(f"--rank={rank} is refused; give 1 or more")
    folder = _new_folder(output)
    (part, before), (other, after) = (load_whole_network(source) for source in (base, tuned))
    if part != other:
        raise ConfigError(f"{base} and {tuned} are pipelines of different kinds; give a model and what became of it")
    layers = extract_adapters(before, after, rank)
    write_adapters({part: layers}, folder)
    _report("extract", folder, len(layers))
    return 0


@command(
    app, "merge", examples=["emoji-ldm adapters merge ./style=0.8 ./subject=0.5 -o ./both"],
)  # fmt: skip
def merge(
    folders: Annotated[list[str], typer.Argument(metavar="FOLDER[=FACTOR]...", help="Adapters and their factors.")],
    output: Output,
) -> int:
    """Write one adapter whose effect is the weighted sum of several; its rank is the sum of theirs."""
    from emoji_ldm.model.adapter_algebra import merge_adapters, read_adapters, write_adapters

    folder = _new_folder(output)
    weighted = [(read_adapters(path), factor) for path, factor in map(_with_factor, folders)]
    parts = dict.fromkeys(part for adapters, _ in weighted for part in adapters)
    merged = {
        part: merge_adapters([(adapters[part], factor) for adapters, factor in weighted if part in adapters])
        for part in parts
    }
    write_adapters(merged, folder)
    _report("merge", folder, sum(map(len, merged.values())))
    return 0


def _with_factor(text: str) -> tuple[Path, float]:
    path, _, factor = text.rpartition("=")
    if not path:
        return Path(text).expanduser(), 1.0
    try:
        return Path(path).expanduser(), float(factor)
    except ValueError:
        raise ConfigError(f"{text!r} is refused; give FOLDER or FOLDER=FACTOR, such as ./style=0.8") from None


def _new_folder(output: str) -> Path:
    folder = Path(output).expanduser()
    # Files of another export, such as a model card, would then describe adapters that are gone.
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--output {folder} exists; give a new or empty folder")
    return folder


def _report(name: str, folder: Path, num_layers: int) -> None:
    from emoji_ldm.progress import print_summary

    size = sum(path.stat().st_size for path in folder.iterdir())
    rows = {"layers": num_layers, "bytes": f"{size:,}", "folder": str(folder)}
    print_summary(f"adapters {name}", rows, f"emoji-ldm generate 'a happy blob' generate.lora={folder}")
