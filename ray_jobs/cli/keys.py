"""The command `emoji-ldm keys`: who may use the service. Needs no Ray; light until a verb runs."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from emoji_ldm.errors import ConfigError

if TYPE_CHECKING:
    from emoji_ldm.config import Config
    from emoji_ldm.serve.api_keys import ApiKey

Add = Callable[..., argparse.ArgumentParser]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
DAYS = re.compile(r"(\d{1,5})d")
FILE = "serve.keys=FILE [section.field=value ...]"
ADD = (
    "emoji-ldm keys add alice serve.keys=keys.json\n"
    "  emoji-ldm keys add nightly --class bulk --quota 600 --expires 30d serve.keys=s3://bucket/keys.json"
)


def add_keys(commands: Any, add: Add) -> None:
    """Add `keys` with its verbs; `add` adds one command with what all commands have."""
    command = commands.add_parser(
        "keys", help="make, list and revoke the bearer keys of the service",
        description="Bearer keys of the service. The file holds only their hashes; a running service reads it again "
        "every two seconds.",
        epilog=f"examples:\n  {ADD}\n  emoji-ldm keys list serve.keys=keys.json\n"
        "  emoji-ldm keys revoke alice serve.keys=keys.json\n  emoji-ldm serve serve.keys=keys.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    verbs = command.add_subparsers(dest="verb", required=True, metavar="verb")
    made = add(verbs, "add", "make a key and print it, once", ADD, f"NAME {FILE}")
    made.add_argument("--class", dest="kind", choices=("interactive", "bulk"), default="interactive",
                      help="interactive may do everything, bulk only jobs (interactive)")  # fmt: skip
    made.add_argument("--quota", type=int, default=0, metavar="N", help="images a minute; no limit by default")
    made.add_argument("--expires", default="", metavar="DAYS|TIME", help="30d, or 2027-01-31 (UTC); never by default")
    add(verbs, "list", "list the keys: names, classes, quotas, ends", "emoji-ldm keys list serve.keys=keys.json", FILE)
    add(verbs, "revoke", "forget a key; a running service refuses it within seconds",
        "emoji-ldm keys revoke alice serve.keys=keys.json", f"NAME {FILE}")  # fmt: skip


def run(arguments: argparse.Namespace, config: Config, words: list[str]) -> int:
    """Do the verb that was parsed. ConfigError for a name or an option that does not fit, StoreError for the file."""
    from emoji_ldm.serve.api_keys import read_keys

    uri = config.serve.keys
    if not uri:
        raise ConfigError("which file? name it: serve.keys=keys.json, or serve.keys=s3://bucket/keys.json")
    if arguments.verb == "add":
        return _add(arguments, uri, _one(words, "add"))
    if arguments.verb == "revoke":
        return _revoke(uri, _one(words, "revoke"))
    if words:
        raise ConfigError(f"keys list takes no name, and not {words[0]!r}")
    sys.stdout.write("".join(map(_line, _there(uri, read_keys(uri)))) or "no keys\n")
    return 0


def _add(arguments: argparse.Namespace, uri: str, name: str) -> int:
    from emoji_ldm.serve.api_keys import change_keys, new_key

    if not NAME.fullmatch(name):
        raise ConfigError(f"name {name!r} is refused; use letters, digits, . _ @ and -, at most 63")
    if arguments.quota < 0:
        raise ConfigError(f"--quota={arguments.quota} is refused; images a minute, 0 for no limit")
    secret, key = new_key(name, arguments.kind, arguments.quota, _end(arguments.expires))

    def added(keys: tuple[ApiKey, ...] | None) -> tuple[ApiKey, ...]:
        if any(known.name == name for known in keys or ()):
            raise ConfigError(f"there is a key {name!r} already; revoke it first, or choose another name")
        return (*(keys or ()), key)

    change_keys(uri, added)
    sys.stderr.write(f"the key of {name}, which nobody can tell again; clients send it as Authorization: Bearer KEY\n")
    sys.stdout.write(f"{secret}\n")
    return 0


def _revoke(uri: str, name: str) -> int:
    from emoji_ldm.serve.api_keys import change_keys

    def rest(keys: tuple[ApiKey, ...] | None) -> tuple[ApiKey, ...]:
        names = [key.name for key in _there(uri, keys)]
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"there is no key {name!r} in {uri}{hint}")
        return tuple(key for key in keys or () if key.name != name)

    change_keys(uri, rest)
    sys.stdout.write(f"revoked {name}\n")
    return 0


def _there(uri: str, keys: tuple[ApiKey, ...] | None) -> tuple[ApiKey, ...]:
    if keys is None:
        raise ConfigError(f"there is no file {uri}; `emoji-ldm keys add NAME serve.keys={uri}` makes it")
    return keys


def _line(key: ApiKey) -> str:
    quota = f"{key.images_per_minute} images/min" if key.images_per_minute else "no quota"
    end = "never ends" if not key.expires else f"{'ended' if key.expired() else 'ends'} {key.expires:%Y-%m-%dT%H:%MZ}"
    return f"{key.name:<20} {key.kind:<12} {quota:<16} {end}, made {key.made[:10]}\n"


def _end(text: str) -> datetime | None:
    """The moment that a span of days or a time means; None for empty."""
    if not text:
        return None
    now = datetime.now(UTC)
    try:
        days = DAYS.fullmatch(text)
        end = now + timedelta(days=int(days[1])) if days else datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ConfigError(f"--expires={text} is refused; write 30d, or 2027-01-31 or 2027-01-31T10:00 (UTC)") from None
    end = end if end.tzinfo else end.replace(tzinfo=UTC)
    if end <= now:
        raise ConfigError(f"--expires={text} is over already")
    return end.replace(microsecond=0)


def _one(words: list[str], verb: str) -> str:
    if len(words) != 1:
        raise ConfigError(f"keys {verb} takes one name: emoji-ldm keys {verb} alice serve.keys=keys.json")
    return words[0]
