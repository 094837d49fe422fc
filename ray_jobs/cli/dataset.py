"""The commands of `emoji-ldm dataset`: their options and examples. `dataset_commands` holds what they do."""

import functools
from typing import TYPE_CHECKING, Annotated

import typer

from emoji_ldm.errors import ConfigError
from ray_jobs.cli.command import AS_OF, AsJson, configured, new_app, one_word

# Annotations of Config stay texts: pydantic takes longer to import than `--help` may take to answer.
if TYPE_CHECKING:
    from emoji_ldm.config import Config

# Options that several commands share are written once, so that they have one name and one help text.
Delete = Annotated[bool, typer.Option("--delete", help="Delete the name; the rows stay.")]
Parts = Annotated[str, typer.Option(metavar="NAME=SHARE,...", help="Parts such as train=0.9,val=0.1.")]
Salt = Annotated[str, typer.Option(help="Another salt assigns the images anew.")]
TableName = Annotated[str, typer.Option("--table", help="One table; all by default.")]

app = new_app("Versions and contents of the tables.", "Show, compare, tag and mend versions of the tables")
# Every command of this group reads the configuration, for `store`, `branch` and `as_of`.
dataset_command = functools.partial(configured, app)
# Those that only read one table or all, as they are or were.
table_command = functools.partial(dataset_command, words="table", shortcuts=[AS_OF])


@table_command(
    "log",
    examples=["emoji-ldm dataset log", "emoji-ldm dataset log images --as-of v1 store=s3://bucket/emoji"],
)
def log(config: "Config", words: list[str], table: TableName = "") -> int:
    """List versions, newest first, with their tags."""
    from ray_jobs.cli import dataset_commands

    return dataset_commands.log(config, _table("log", words, table))


@table_command(
    "show",
    examples=["emoji-ldm dataset show images", "emoji-ldm dataset show --as-of 2026-11-21T10:00"],
)
def show(config: "Config", words: list[str], table: TableName = "") -> int:
    """Show columns, counts and a few rows."""
    from ray_jobs.cli import dataset_commands

    return dataset_commands.show(config, _table("show", words, table))


@dataset_command(
    "diff",
    words="POINT",
    examples=[
        "emoji-ldm dataset diff v1 v2",
        "emoji-ldm dataset diff captions@3 captions@7 --rows 20",
        "emoji-ldm dataset diff main try --table images --json",
    ],
)
def diff(
    config: "Config",
    words: list[str],
    table: TableName = "",
    rows: Annotated[int, typer.Option(metavar="N", help="Rows of each kind to name.")] = 5,
    as_json: AsJson = False,
) -> int:
    """Compare the rows of two points: added, removed and changed; the second point is the newest by default."""
    from ray_jobs.cli import dataset_commands

    return dataset_commands.diff(config, words, table=table, rows=rows, as_json=as_json)


@dataset_command(
    "tag",
    words="NAME",
    shortcuts=[AS_OF],
    examples=[
        "emoji-ldm dataset tag v1 -m 'first release'",
        "emoji-ldm dataset tag old --as-of 2026-11-21T10:00",
        "emoji-ldm dataset tag v1 --delete",
    ],
)
def tag(
    config: "Config",
    words: list[str],
    message: Annotated[str, typer.Option("--message", "-m", help="What the tag is for.")] = "",
    delete: Delete = False,
) -> int:
    """Give the versions of all tables a name that never changes; without a name, list the tags."""
    from ray_jobs.cli import dataset_commands

    return dataset_commands.tag(config, words, message=message, delete=delete)


@dataset_command(
    "branch",
    words="NAME",
    examples=[
        "emoji-ldm dataset branch try --from v1",
        "emoji-ldm caption branch=try",
        "emoji-ldm dataset branch try --delete",
    ],
)
def branch(
    config: "Config",
    words: list[str],
    start: Annotated[str, typer.Option("--from", metavar="POINT", help="Where to begin; the newest by default.")] = "",
    delete: Delete = False,
) -> int:
    """Begin a branch of the tables without copying them; without a name, list the branches."""
    from ray_jobs.cli import dataset_commands

    return dataset_commands.branch(config, words, start=start, delete=delete)


@dataset_command(
    "restore",
    words="POINT",
    examples=[
        "emoji-ldm dataset restore v1",
        "emoji-ldm dataset restore images@7",
        "emoji-ldm dataset restore 2026-11-21T10:00 --table captions",
    ],
)
def restore(config: "Config", words: list[str], table: TableName = "") -> int:
    """Make a new version with the rows of an old one."""
    from ray_jobs.cli import dataset_commands

    return dataset_commands.restore(config, words, table=table)


@dataset_command("revert", words="TABLE@VERSION", examples=["emoji-ldm dataset revert captions@7"])
def revert(config: "Config", words: list[str]) -> int:
    """Undo what one commit did and keep what came after."""
    from ray_jobs.cli import dataset_commands

    return dataset_commands.revert(config, words)


@dataset_command("compact", words="table", examples=["emoji-ldm dataset compact", "emoji-ldm dataset compact images"])
def compact(config: "Config", words: list[str], table: TableName = "") -> int:
    """Join small files into files of 128 MB; the rows stay the same."""
    from ray_jobs.cli import dataset_commands

    return dataset_commands.compact(config, _table("compact", words, table))


@dataset_command(
    "vacuum",
    words="TABLE@VERSION",
    examples=[
        "emoji-ldm dataset vacuum",
        "emoji-ldm dataset vacuum --keep 30d --apply",
        "emoji-ldm dataset vacuum images@3 --apply",
    ],
)
def vacuum(
    config: "Config",
    words: list[str],
    keep: Annotated[
        str,
        typer.Option(
            metavar="N|DAYS", help="History to keep: 10 versions of each table, or 30d; all of it by default."
        ),
    ] = "",
    # A running job writes its files some time before it commits them; until then nothing refers to them. The default of
    # a day is far longer than any shard takes.
    older_than: Annotated[
        str, typer.Option(metavar="SPAN", help="Never delete files younger than this, or unreferenced for less long.")
    ] = "24h",
    apply: Annotated[bool, typer.Option("--apply", help="Delete; without it the files are only listed.")] = False,
) -> int:
    """Delete files that no kept version, tag or branch refers to; TABLE@VERSION gives up that version."""
    from ray_jobs.cli import dataset_commands

    return dataset_commands.vacuum(config, words, keep=keep, older_than=older_than, apply=apply)


@table_command(
    "verify",
    examples=["emoji-ldm dataset verify", "emoji-ldm dataset verify images --as-of v1"],
)
def verify(config: "Config", words: list[str], table: TableName = "") -> int:
    """Hash every image again and check files, keys and references; exit status 1 for damage."""
    from ray_jobs.cli import dataset_commands

    return dataset_commands.verify(config, _table("verify", words, table))


@table_command(
    "stats",
    examples=["emoji-ldm dataset stats", "emoji-ldm dataset stats --as-of v1 --json"],
)
def stats(config: "Config", words: list[str], table: TableName = "", as_json: AsJson = False) -> int:
    """Count what the tables hold."""
    from ray_jobs.cli import dataset_commands

    return dataset_commands.stats(config, _table("stats", words, table), as_json=as_json)


@dataset_command(
    "split",
    words="TARGET.parquet",
    shortcuts=[AS_OF],
    examples=[
        "emoji-ldm dataset split --parts train=0.9,val=0.1",
        "emoji-ldm dataset split --parts train=0.8,val=0.1,test=0.1 parts.parquet --as-of v1",
    ],
)
def split(config: "Config", words: list[str], parts: Parts = "", salt: Salt = "") -> int:
    """Assign images to parts by their content; an image never changes its part."""
    from ray_jobs.cli import dataset_commands

    return dataset_commands.split(config, words, parts=parts, salt=salt)


@dataset_command(
    "export",
    words="FORMAT TARGET",
    shortcuts=[AS_OF],
    examples=[
        "emoji-ldm dataset export csv ./out",
        "emoji-ldm dataset export hf ./hub --parts train=0.9,val=0.1",
        "emoji-ldm dataset export webdataset s3://bucket/wds --as-of v1 --captioned",
    ],
)
def export(  # noqa: PLR0913  # one parameter per option
    config: "Config",
    words: list[str],
    parts: Parts = "",
    salt: Salt = "",
    background: Annotated[
        str, typer.Option(metavar="COLOUR", help="csv: colour behind transparency: white, #rrggbb.")
    ] = "white",
    images: Annotated[
        str, typer.Option(metavar="jpg|png", help="csv: format of the images; png keeps transparency.")
    ] = "jpg",
    captioned: Annotated[bool, typer.Option("--captioned", help="Leave out images without a good caption.")] = False,
    license: Annotated[str, typer.Option(metavar="NAME", help="hf: licence named in the data card.")] = "",
) -> int:
    """Write images and captions for other programs: csv json txt hf webdataset."""
    # Imported here and not above: pyarrow comes with it.
    from emoji_ldm.dataset.formats.export_options import ExportOptions
    from emoji_ldm.dataset.split import parse_fractions
    from ray_jobs.cli import dataset_commands

    if len(words) != 2:
        rule = "export takes a format and a target: emoji-ldm dataset export csv ./out (csv json txt hf webdataset)"
        raise ConfigError(rule)
    # The options are one object from here on, because a format uses only some of them and checks which.
    name, target = words
    options = ExportOptions(name, target, parse_fractions(parts), salt, background, images, captioned, license)
    return dataset_commands.export(config, options)


@dataset_command(
    "import",
    words="SOURCE",
    examples=["emoji-ldm dataset import ./emoji", "emoji-ldm dataset import s3://bucket/wds store=data"],
)
# The trailing underscore, since `import` is a keyword of Python; users type the name in the decorator.
def import_(config: "Config", words: list[str]) -> int:
    """Add images of another data set: our exports, Parquet, tar shards, folders with NAME.txt captions."""
    from ray_jobs.cli import dataset_commands

    return dataset_commands.import_(config, words)


def _table(command: str, words: list[str], option: str) -> str:
    """Return the one table that is meant, as a word or an option; empty for all."""
    # The table may be given either way: as a word it is quicker to type, as an option it reads like the other commands.
    # A word wins.
    return one_word(words, f"{command} takes one table") if words else option
