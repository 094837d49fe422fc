"""Names of checkpoints that may be moved: what is served under a name is changed by moving the name.

    refs/checkpoints/NAME.json   {"name", "time", "checkpoint": path in the store}

A checkpoint with a name is not pruned. Unlike a tag of tables, a name is there to be given to another one.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.store import Store

ALIAS_FOLDER = ("refs", "checkpoints")
ALIAS_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,62}")


def set_alias(store: Store, name: str, path: str) -> None:
    """Let a name mean the checkpoint at this path of the store from now on; ConfigError if it cannot be a name."""
    if not ALIAS_PATTERN.fullmatch(name):
        raise ConfigError(f"name {name!r} is refused; start with a letter, go on with letters, digits, . _ or -")
    facts = {"name": name, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), "checkpoint": path}
    store.write(json.dumps(facts).encode(), *ALIAS_FOLDER, f"{name}.json")


def resolve_alias(store: Store, name: str) -> str:
    """Path of the checkpoint that has this name; ModelError if none has."""
    known = aliased_paths(store)
    if name not in known:
        raise ModelError(f"no checkpoint in {store.uri} has the alias {name!r} (aliases: {', '.join(known) or 'none'}); "
                         f"give it to the newest with: emoji-ldm train --alias {name}")  # fmt: skip
    return known[name]


def aliased_paths(store: Store) -> dict[str, str]:
    """Path of each named checkpoint, by name."""
    names = [name for name in store.list(*ALIAS_FOLDER) if name.endswith(".json")]
    return {
        name.removesuffix(".json"): str(json.loads(store.read(*ALIAS_FOLDER, name))["checkpoint"]) for name in names
    }
