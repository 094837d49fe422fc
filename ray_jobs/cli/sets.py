"""The command line of `emoji-ldm sets`, a client of the service. Only the standard library until a verb runs."""

from __future__ import annotations

import argparse
from typing import Any

SET_VERBS = {
    "create": ("begin a set of emoji: prompts as words, lines of a text file, or JSONL with parameters per line",
               "emoji-ldm sets create 'a happy blob' 'a sad cat' -n 4 --wait\n"
               "  emoji-ldm sets create --file prompts.txt --style '{prompt}, flat' --style '{prompt}, 3d' --steps 20\n"
               "  emoji-ldm sets create --file lines.jsonl --seed 7 --wait --fetch ./emoji\n"
               "  (a line: {\"custom_id\": \"a1\", \"prompt\": \"a cat\", \"n\": 2, \"steps\": 30})"),
    "status": ("counts, progress, rate and remaining time of a set",
               "emoji-ldm sets status set_0123\n  emoji-ldm sets status set_0123 --watch\n"
               "  emoji-ldm sets status set_0123 --json"),
    "fetch": ("write the finished pictures, prompts.csv and a contact sheet; goes on where it was cut off",
              "emoji-ldm sets fetch set_0123\n  emoji-ldm sets fetch set_0123 ./emoji"),
    "cancel": ("draw nothing more of a set; what is drawn stays", "emoji-ldm sets cancel set_0123"),
    "list": ("your sets, newest first", "emoji-ldm sets list\n  emoji-ldm sets list --limit 5 --url http://host:8000"),
    "delete": ("cancel a set and delete all its pictures", "emoji-ldm sets delete set_0123"),
}  # fmt: skip

PARAMETERS: dict[str, tuple[type, str]] = {
    "seed": (int, "first seed; chosen by chance if absent"),
    "steps": (int, "denoising steps"),
    "guidance_scale": (float, "classifier-free guidance; 1 turns it off"),
    "scheduler": (str, "sampler, of those that the model lists (GET /v1/models)"),
    "negative_prompt": (str, "what to steer away from"),
    "size": (str, "WIDTHxHEIGHT"),
    "model": (str, "name of a model; the service's first if absent"),
    "lora": (str, "name of an adapter"),
    "quality": (str, "low, medium or high: so many steps by another name"),
    "output_format": (str, "png, webp or jpeg"),
    "output_compression": (int, "quality of webp (100 is lossless) or jpeg, 0 to 100"),
    "background": (str, "transparent, opaque or auto"),
}


def add_sets(commands: Any) -> None:
    """Add `sets` with its verbs."""
    lines = "\n  ".join(("emoji-ldm sets create 'a happy blob' -n 4 --wait --fetch ./emoji",
                         "emoji-ldm sets status set_0123 --watch", "emoji-ldm sets fetch set_0123"))  # fmt: skip
    text = "Sets of emoji, drawn in bulk by a running service (emoji-ldm serve)."
    command = _parser(commands, "sets", "sets of emoji, drawn in bulk by a running service", text, lines)
    verbs = command.add_subparsers(dest="verb", required=True, metavar="verb")
    for name, (what, examples) in SET_VERBS.items():
        verb = _parser(verbs, name, what, what[0].upper() + what[1:] + ".", examples)
        if name == "create":
            _add_create(verb)
        elif name != "list":
            verb.add_argument("id", help="id of the set, as `create` and `list` tell it")
        verb.add_argument(
            "--url", default="", help="the service; $EMOJI_LDM_URL, else http://127.0.0.1:8000, if absent"
        )
        if name in ("create", "status", "list"):
            verb.add_argument("--json", action="store_true", help="print JSON")
    verbs.choices["status"].add_argument("--watch", action="store_true", help="show the progress until the set ends")
    verbs.choices["list"].add_argument("--limit", type=int, default=20, metavar="N", help="sets to show (20)")
    verbs.choices["fetch"].add_argument("folder", nargs="?", default="", help="where to write; ./<id> if absent")


def _add_create(command: argparse.ArgumentParser) -> None:
    command.add_argument("prompts", nargs="*", metavar="prompt", help="what to draw")
    command.add_argument("--file", default="", help="prompts.txt with a prompt per line, or lines.jsonl")
    command.add_argument("-n", type=int, metavar="N", help="pictures per prompt (and style)")
    command.add_argument("--style", dest="styles", action="append", metavar="TEMPLATE", default=[],
                         help="such as '{prompt}, flat style'; may be given several times")  # fmt: skip
    command.add_argument("--name", help="a name for people")
    for name, (kind, text) in PARAMETERS.items():
        command.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="VALUE", help=text)
    command.add_argument("--key", default="", help="with the same key again, the same set is answered, not a new one")
    command.add_argument("--wait", action="store_true", help="show the progress until the set ends")
    command.add_argument("--fetch", default="", metavar="FOLDER", help="wait, then write the pictures there")


def _parser(commands: Any, name: str, text: str, description: str, examples: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=description,
        epilog=f"examples:\n  {examples}\n\nenvironment: EMOJI_LDM_URL the service, EMOJI_LDM_API_KEY your key",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    return command
