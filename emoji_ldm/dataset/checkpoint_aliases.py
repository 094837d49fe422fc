"""Aliases of checkpoints: movable names, such as `production` for the checkpoint that is served.

    refs/checkpoints/NAME.json   {"name", "time", "checkpoint": path in the store}

Moving an alias changes what a service with `serve.checkpoint=alias:NAME` serves. A checkpoint with an alias is never
pruned. Tags of tables, in contrast, never change their meaning (versions/refs.py).
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.store import Store

ALIAS_FOLDER = ("refs", "checkpoints")
# The name becomes a file name in the store, so it holds nothing that a path could be made of.
ALIAS_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,62}")


def set_alias(store: Store, name: str, path: str) -> None:
    """Point an alias to the checkpoint at this path of the store; ConfigError if the name is not allowed."""
    if not ALIAS_PATTERN.fullmatch(name):
        raise ConfigError(f"name {name!r} is not allowed; start with a letter, continue with letters, digits, . _ or -")
    facts = {"name": name, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), "checkpoint": path}
    # An alias is meant to move, so the write needs no condition: of two commands, the later one wins.
    store.write(json.dumps(facts).encode(), *ALIAS_FOLDER, f"{name}.json")


def resolve_alias(store: Store, name: str) -> str:
    """Path of the checkpoint that an alias points to; ModelError if there is no such alias."""
    known = aliased_paths(store)
    if name not in known:
        raise ModelError(
            f"no checkpoint in {store.uri} has the alias {name!r} (aliases: {', '.join(known) or 'none'}); "
            f"give it to the newest with: emoji-ldm train --alias {name}"
        )
    return known[name]


def aliased_paths(store: Store) -> dict[str, str]:
    """{alias: path of its checkpoint}."""
    # Other machines move aliases at any time, so they are read anew each time; there are only a few.
    names = [name for name in store.list(*ALIAS_FOLDER) if name.endswith(".json")]
    return {
        name.removesuffix(".json"): str(json.loads(store.read(*ALIAS_FOLDER, name))["checkpoint"]) for name in names
    }
