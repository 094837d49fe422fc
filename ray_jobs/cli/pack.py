"""The command `pack`: a folder of pictures as an emoji pack. It needs no Ray and no configuration."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emoji_ldm.errors import ConfigError
from ray_jobs.cli.command import AsJson, command

if TYPE_CHECKING:
    from emoji_ldm.packs.pack_builder import PackReport

# Help must not wait for NumPy, so these are written here; a test compares them to the table.
TARGETS_HELP = "discord, slack, teams, mastodon, misskey, telegram, whatsapp, favicon, sprite, font or zip."
MAX_SHOWN = 8  # lines per list of the summary


def add_command(app: typer.Typer) -> None:
    """Add `pack` to the commands."""
    command(
        app,
        "pack",
        examples=[
            "emoji-ldm pack ./emoji --target discord",
            "emoji-ldm pack ./emoji --target whatsapp --outline 8 --name 'Happy blobs' -o blobs.zip",
            "emoji-ldm pack ./emoji --target font --license CC-BY-4.0",
        ],
    )(pack)


def pack(  # noqa: PLR0913  # one parameter per option
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Of PNG files, as `generate` and `sets` write it.")],
    target: Annotated[str, typer.Option("--target", "-t", metavar="NAME", help=TARGETS_HELP)],
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="By default FOLDER-TARGET.zip.")] = "",
    outline: Annotated[int, typer.Option(metavar="PX", help="White outline, in pixels of the target.")] = 0,
    name: Annotated[str, typer.Option(help="Of the pack; by default the folder's.")] = "",
    license_: Annotated[
        str, typer.Option("--license", metavar="TEXT|FILE", help="For LICENSE.txt, such as CC-BY-4.0.")
    ] = "",
    as_json: AsJson = False,
) -> int:
    """Make an emoji pack for a chat service, a web page or a font: cleaned, enlarged, named, and checked."""
    # Imported only now, because it brings NumPy and Pillow, and help texts must not wait for that.
    from emoji_ldm.local_files import write_atomically
    from emoji_ldm.packs.pack_builder import PackOptions, build_pack
    from emoji_ldm.packs.source_pictures import read_folder
    from emoji_ldm.progress import track

    source = Path(folder).expanduser()
    options = PackOptions(
        target, name or source.resolve().name or PackOptions.name, outline, _license(license_), keep_going=True
    )
    # Options are checked before anything is read, and the pack before anything is written.
    options.check()
    path = _output(output, source, target)
    pictures = read_folder(source)
    with track("pack", len(pictures), "pictures") as progress:
        archive, report = build_pack(pictures, options, progress.advance)
    try:
        write_atomically(archive, path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; choose another file with -o") from None
    _print(report, path, as_json=as_json)
    return 0


def _output(output: str, source: Path, target: str) -> Path:
    path = Path(output).expanduser() if output else Path(f"{source.resolve().name or 'emoji'}-{target}.zip")
    if path.suffix != ".zip":
        raise ConfigError(f"-o {path} must end in .zip")
    if not path.parent.is_dir():
        raise ConfigError(f"-o {path}: there is no folder {path.parent}")
    return path


def _license(text: str) -> str:
    """Return the licence itself, or the content of a file that is named."""
    path = Path(text)
    try:
        return path.read_text(encoding="utf-8") if text and len(text) < 256 and path.is_file() else text
    except UnicodeDecodeError:
        raise ConfigError(f"--license {text} is no text file") from None


def _print(report: "PackReport", path: Path, *, as_json: bool) -> None:
    import dataclasses
    import json

    from emoji_ldm.packs.target_limits import TARGETS
    from emoji_ldm.progress import print_status, print_summary

    if as_json:
        sys.stdout.write(json.dumps({"file": str(path), **dataclasses.asdict(report)}) + "\n")
        return
    rows = {
        "file": path, "pictures": report.num_pictures, "bytes": f"{report.num_bytes:,}",
        "largest": f"{report.largest:,} bytes", "changed": len(report.changed), "skipped": len(report.skipped),
    }  # fmt: skip
    target = TARGETS[report.target]
    fitting = [slots for slots in target.slots if slots >= report.num_pictures]
    if len(target.slots) > 1 and fitting:
        rows["slots"] = f"needs an account with {fitting[0]} free (of {', '.join(map(str, target.slots))})"
    print_summary(f"pack for {target.title}", rows)
    lines = [f"  {file} skipped: {reason}" for file, reason in report.skipped.items()]
    # Enlarging is the rule; what is worth a line is what else was changed.
    unusual = {name: [each for each in changes if " px to " not in each] for name, changes in report.changed.items()}
    lines += [f"  {name}: {', '.join(changes)}" for name, changes in unusual.items() if changes]
    for line in lines[:MAX_SHOWN]:
        print_status(line)
    if len(lines) > MAX_SHOWN:
        print_status(f"  and {len(lines) - MAX_SHOWN} more, in manifest.json")
