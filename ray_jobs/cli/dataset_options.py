"""The command line of `emoji-ldm dataset`: verbs, options and examples. Only the standard library until a verb runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Add = Callable[..., argparse.ArgumentParser]


@dataclass(frozen=True)
class VerbHelp:
    """One verb's help."""

    text: str
    examples: str
    words: str = ""  # what stands before the overrides
    options: tuple[str, ...] = ()


VERBS = {
    "log": VerbHelp("list versions, newest first, with their tags",
                "emoji-ldm dataset log\n  emoji-ldm dataset log images --at v1 store=s3://bucket/emoji",
                "[table]", ("table", "at")),
    "show": VerbHelp("show columns, counts and a few rows",
                 "emoji-ldm dataset show images\n  emoji-ldm dataset show --at 2026-11-21T10:00",
                 "[table]", ("table", "at")),
    "diff": VerbHelp("compare rows of two points: added, removed, changed fields; the second is the newest by default",
                 "emoji-ldm dataset diff v1 v2\n  emoji-ldm dataset diff captions@3 captions@7 --rows 20\n"
                 "  emoji-ldm dataset diff main try --table images --json", "A [B]", ("table", "rows", "json")),
    "tag": VerbHelp("give the versions of all tables a name that never changes; without a name, list tags",
                "emoji-ldm dataset tag v1 -m 'first release'\n  emoji-ldm dataset tag old --at 2026-11-21T10:00\n"
                "  emoji-ldm dataset tag v1 --delete", "[NAME]", ("message", "at", "delete")),
    "branch": VerbHelp("begin a line of its own from the tables, without copying; without a name, list branches",
                   "emoji-ldm dataset branch try --from v1\n  emoji-ldm caption branch=try\n"
                   "  emoji-ldm dataset branch try --delete", "[NAME]", ("from", "delete")),
    "restore": VerbHelp("make a new version with the rows of an old one",
                    "emoji-ldm dataset restore v1\n  emoji-ldm dataset restore images@7\n"
                    "  emoji-ldm dataset restore 2026-11-21T10:00 --table captions", "POINT", ("table",)),
    "revert": VerbHelp("undo what one commit did and keep what came after",
                   "emoji-ldm dataset revert captions@7", "TABLE@VERSION"),
    "compact": VerbHelp("join small files into files of 128 MB; rows stay the same",
                    "emoji-ldm dataset compact\n  emoji-ldm dataset compact images", "[table]", ("table",)),
    "vacuum": VerbHelp("delete files that no version to keep, tag or branch refers to; TABLE@VERSION gives up that version",
                   "emoji-ldm dataset vacuum\n  emoji-ldm dataset vacuum --keep 30d --apply\n"
                   "  emoji-ldm dataset vacuum images@3 --apply", "[TABLE@VERSION ...]", ("keep", "older", "apply")),
    "verify": VerbHelp("hash every picture again, check files, keys and references; exit status 1 for damage",
                   "emoji-ldm dataset verify\n  emoji-ldm dataset verify images --at v1", "[table]", ("table", "at")),
    "stats": VerbHelp("count what the tables hold", "emoji-ldm dataset stats\n  emoji-ldm dataset stats --at v1 --json",
                  "[table]", ("table", "at", "json")),
    "split": VerbHelp("deal images into parts by their content; an image never changes its part",
                  "emoji-ldm dataset split --parts train=0.9,val=0.1\n"
                  "  emoji-ldm dataset split --parts train=0.8,val=0.1,test=0.1 parts.parquet --at v1",
                  "[TARGET.parquet]", ("at", "parts", "salt")),
    "export": VerbHelp("write images and captions for other programs: csv json txt hf webdataset",
                   "emoji-ldm dataset export csv ./out\n  emoji-ldm dataset export hf ./hub --parts train=0.9,val=0.1\n"
                   "  emoji-ldm dataset export webdataset s3://bucket/wds --at v1 --captioned",
                   "FORMAT TARGET", ("at", "parts", "salt", "export")),
    "import": VerbHelp("add pictures of another data set: our exports, Parquet, tar shards, folders with NAME.txt captions",
                   "emoji-ldm dataset import ./emoji\n  emoji-ldm dataset import s3://bucket/wds store=data", "SOURCE"),
}  # fmt: skip


def add_dataset(commands: Any, add: Add) -> None:
    """Add `dataset` with its verbs; `add` adds one command with what all commands have."""
    lines = "\n  ".join(f"emoji-ldm dataset {line}" for line in
                        ("log", "diff v1 main", "tag v1", "restore v1", "verify", "export hf ./hub"))  # fmt: skip
    command = commands.add_parser(
        "dataset", help="versions and contents of the tables", description="Versions and contents of the tables.",
        epilog=f"examples:\n  {lines}", formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    verbs = command.add_subparsers(dest="verb", required=True, metavar="verb")
    for name, verb in VERBS.items():
        parser = add(verbs, name, verb.text, verb.examples, f"{verb.words} [section.field=value ...]".strip())
        for option in verb.options:
            OPTIONS[option](parser)


def _option(*names: str, **settings: Any) -> Callable[[argparse.ArgumentParser], None]:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(*names, **settings)

    return add


def _export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--background", default="white", help="csv: colour behind transparency (white, #rrggbb)")
    parser.add_argument("--images", default="jpg", help="csv: jpg, or png, which keeps transparency")
    parser.add_argument("--captioned", action="store_true", help="leave out images without a good caption")
    parser.add_argument("--license", default="", help="hf: licence named in the data card")


OPTIONS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "table": _option("--table", default="", help="one table; all by default"),
    "at": _option("--at", default="", metavar="POINT", help="tag, branch, time (UTC) or TABLE@VERSION[,...] to read"),
    "rows": _option("--rows", type=int, default=5, metavar="N", help="rows of each kind to name (5)"),
    "json": _option("--json", action="store_true", help="print JSON"),
    "message": _option("-m", "--message", default="", help="what the tag is for"),
    "delete": _option("--delete", action="store_true", help="forget the name"),
    "from": _option("--from", dest="start", default="", metavar="POINT", help="where to begin; the newest by default"),
    "keep": _option("--keep", default="", metavar="N|DAYS",
                    help="history to keep: 10 versions of each table, or 30d; all of it by default"),
    "older": _option("--older-than", default="24h", metavar="SPAN",
                     help="never delete files that are younger, or left a table more recently (24h)"),
    "apply": _option("--apply", action="store_true", help="delete; without it the files are only named"),
    "parts": _option("--parts", default="", metavar="NAME=SHARE,...", help="such as train=0.9,val=0.1"),
    "salt": _option("--salt", default="", help="another salt deals the images anew"),
    "export": _export,
}  # fmt: skip
