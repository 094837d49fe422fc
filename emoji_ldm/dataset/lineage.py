"""Lineage of commits: the run, stage, parent versions, configuration and code that each one came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from emoji_ldm import __version__


@dataclass(frozen=True)
class RunInfo:
    """The run that commits: its name, and its whole configuration as JSON."""

    name: str
    config_json: str


@dataclass(frozen=True)
class Lineage:
    """The origin of a commit."""

    run_info: RunInfo
    stage: str
    parents: Mapping[str, int]  # {table: version that was read}
    author: str = ""  # the owner of the key, of a commit that a client of the service made

    def metadata(self, counts: Mapping[str, int], shard: str) -> dict[str, str]:
        """The `commitInfo` fields of a Delta log entry: text, and JSON where a value has structure.

        Args:
            counts: {outcome: rows} of this commit.
            shard: Name of the unit of work; empty where there is none.
        """
        return {
            "run": self.run_info.name,
            "stage": self.stage,
            "shard": shard,
            # Sorted, so that equal lineages are equal texts.
            "parents": json.dumps(dict(self.parents), sort_keys=True),
            "counts": json.dumps(dict(counts), sort_keys=True),
            # The whole configuration is stored, since a name of a preset says nothing once the preset has changed.
            "config": self.run_info.config_json,
            "code": __version__,
            **({"author": self.author} if self.author else {}),
        }
