"""The commands of `emoji-ldm keys`: who may use the service. They need no Ray."""

import re
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from emoji_ldm.errors import ConfigError, StoreError
from ray_jobs.cli.command import configured, did_you_mean, new_app

if TYPE_CHECKING:
    from emoji_ldm.config import Config
    from emoji_ldm.serve.api_keys import ApiKey, KeyScope
    from emoji_ldm.serve.image_quota import QuotaStore

# Names appear in logs, in metrics and in tables, so they are short and have no spaces. An e-mail address is one.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
DAYS = re.compile(r"(\d{1,5})d")

app = new_app(
    "Create, list and revoke the bearer keys of the service. The file holds only their hashes; a running service "
    "reads it again every two seconds.",
    "Create, list and revoke the bearer keys of the service",
)


@configured(
    app,
    "add",
    words="NAME",
    examples=[
        "emoji-ldm keys add alice serve.keys=keys.json",
        "emoji-ldm keys add nightly --class bulk --quota 600 --expires 30d serve.keys=s3://bucket/keys.json",
        "emoji-ldm keys add alice --rotate serve.keys=keys.json",
        "emoji-ldm keys add web --scopes images serve.keys=keys.json",
        "emoji-ldm serve serve.keys=keys.json",
    ],
)
def add(  # noqa: PLR0913 - its options are the command's
    config: "Config",
    words: list[str],
    kind: Annotated[
        Literal["interactive", "bulk"],
        typer.Option("--class", help="interactive keys may do everything, bulk keys only submit jobs."),
    ] = "interactive",
    quota: Annotated[int, typer.Option(metavar="N", help="Images a minute; 0 is no limit.")] = 0,
    expires: Annotated[str, typer.Option(metavar="DAYS|TIME", help="30d, or 2027-01-31 (UTC); never by default.")] = "",
    scopes: Annotated[
        str, typer.Option(metavar="LIST", help="images, jobs, read, models, data, by commas; default: the first three.")
    ] = "",
    rotate: Annotated[bool, typer.Option("--rotate", help="Add one to the keys of NAME.")] = False,
) -> None:
    """Create a key and print it, once."""
    from emoji_ldm.serve.api_keys import change_keys, new_key

    # All options are checked before a key is made: a key that was printed and not stored would be useless.
    uri, name = _file_of_keys(config), _name(words, "add")
    if not NAME.fullmatch(name):
        raise ConfigError(f"name {name!r} is refused; use letters, digits, . _ @ and -, at most 63")
    if quota < 0:
        raise ConfigError(f"--quota={quota} is refused; give images a minute, 0 for no limit")
    secret, key = new_key(name, kind, quota, _expiry(expires), _scopes(scopes))

    # `change_keys` may call this several times with newer keys, so the check for the name must be inside.
    def added(keys: "tuple[ApiKey, ...] | None") -> "tuple[ApiKey, ...]":
        if any(known.name == name for known in keys or ()) and not rotate:
            raise ConfigError(f"there is a key {name!r} already; --rotate adds another one under this name")
        return (*(keys or ()), key)

    change_keys(uri, added)
    # Only the key goes to standard output, so that it can be piped into a file or a secret store.
    sys.stderr.write(f"the key of {name}, shown only once; clients send it as Authorization: Bearer KEY\n")
    sys.stdout.write(f"{secret}\n")


@configured(app, "list", words="", examples=["emoji-ldm keys list serve.keys=keys.json"])
def list_keys(config: "Config", words: list[str]) -> None:
    """List the keys: names, ids, classes, scopes, quotas, expiry, last use."""
    from emoji_ldm.serve.api_keys import read_keys
    from emoji_ldm.serve.image_quota import QuotaStore

    uri, usage = _file_of_keys(config), QuotaStore(f"{config.store}/keys/usage")
    lines = [_line(key, _last_use(usage, key)) for key in _existing(uri, read_keys(uri))]
    sys.stdout.write("".join(lines) or "no keys\n")


@configured(
    app,
    "revoke",
    words="NAME",
    examples=[
        "emoji-ldm keys revoke alice serve.keys=keys.json",
        "emoji-ldm keys revoke alice --id 1a2b3c4d serve.keys=keys.json",
    ],
)
def revoke(
    config: "Config",
    words: list[str],
    key_id: Annotated[str, typer.Option("--id", metavar="ID", help="Of one key, as `list` shows it.")] = "",
) -> None:
    """Delete the keys of a name; a running service refuses them within seconds."""
    from emoji_ldm.serve.api_keys import change_keys

    uri, name = _file_of_keys(config), _name(words, "revoke")

    # Raised and not ignored: a mistyped name would otherwise leave the key valid, and its owner would not know.
    def remaining(keys: "tuple[ApiKey, ...] | None") -> "tuple[ApiKey, ...]":
        names = [key.name for key in _existing(uri, keys)]
        if name not in names:
            raise ConfigError(f"there is no key {name!r} in {uri}{did_you_mean(name, names)}")
        left = tuple(key for key in keys or () if key.name != name or (key_id and key.id != key_id))
        if left == keys:
            ids = [key.id for key in keys if key.name == name]
            raise ConfigError(f"no key of {name!r} has the id {key_id!r}; it has {', '.join(ids)}")
        return left

    change_keys(uri, remaining)
    sys.stdout.write(f"revoked {name}\n")


def _file_of_keys(config: "Config") -> str:
    if not config.serve.keys:
        raise ConfigError("no file of keys; name it: serve.keys=keys.json, or serve.keys=s3://bucket/keys.json")
    return config.serve.keys


def _existing(uri: str, keys: "tuple[ApiKey, ...] | None") -> "tuple[ApiKey, ...]":
    if keys is None:
        raise ConfigError(f"there is no file {uri}; `emoji-ldm keys add NAME serve.keys={uri}` creates it")
    return keys


def _scopes(text: str) -> "tuple[KeyScope, ...]":
    """Return the scopes of a list; none for an empty text."""
    from emoji_ldm.serve.api_keys import SCOPES

    named = {word.strip() for word in text.split(",") if word.strip()}
    if unknown := sorted(named.difference(SCOPES)):
        raise ConfigError(f"--scopes={text}: {unknown[0]!r} is refused; choose of {', '.join(SCOPES)}")
    return tuple(scope for scope in SCOPES if scope in named)


def _last_use(usage: "QuotaStore", key: "ApiKey") -> str:
    try:
        last_used = usage.read(key.sha256).last_used
    except StoreError:  # the file of keys may be here, and the store elsewhere
        return "last use unknown"
    return f"last used {datetime.fromtimestamp(last_used, UTC):%Y-%m-%dT%H:%MZ}" if last_used else "not used yet"


def _line(key: "ApiKey", last_use: str) -> str:
    from emoji_ldm.serve.api_keys import SCOPES

    scopes = [scope for scope in SCOPES if key.permits(scope)]
    quota = f"{key.images_per_minute} images/min" if key.images_per_minute else "no quota"
    end = "never ends" if not key.expires else f"{'ended' if key.expired() else 'ends'} {key.expires:%Y-%m-%dT%H:%MZ}"
    return (f"{key.name:<20} {key.id} {key.kind:<12} {','.join(scopes):<16} {quota:<16} {end}, "
            f"made {key.made[:10]}, {last_use}\n")  # fmt: skip


def _expiry(text: str) -> datetime | None:
    """Return the time that `30d` or a date means, in UTC; None for an empty text."""
    if not text:
        return None
    now = datetime.now(UTC)
    try:
        days = DAYS.fullmatch(text)
        end = now + timedelta(days=int(days[1])) if days else datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ConfigError(f"--expires={text} is refused; write 30d, or 2027-01-31 or 2027-01-31T10:00 (UTC)") from None
    # UTC for everybody: the file is read by servers in other time zones than that of the administrator.
    end = end if end.tzinfo else end.replace(tzinfo=UTC)
    if end <= now:
        raise ConfigError(f"--expires={text} is in the past")
    return end.replace(microsecond=0)


def _name(words: list[str], command: str) -> str:
    if len(words) != 1:
        raise ConfigError(f"keys {command} takes one name: emoji-ldm keys {command} alice serve.keys=keys.json")
    return words[0]
