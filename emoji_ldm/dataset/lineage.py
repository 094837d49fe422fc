"""What every commit says of itself: run, stage, parents, configuration, code and counts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from emoji_ldm import __version__
from emoji_ldm.config import Config


@dataclass(frozen=True)
class Lineage:
    """The origin of a commit."""

    config: Config
    stage: str
    parents: Mapping[str, int]  # {table: version read}

    def metadata(self, counts: Mapping[str, int], shard: str) -> dict[str, str]:
        """Text values for the Delta log; JSON where a value has structure."""
        return {
            "run": self.config.run,
            "stage": self.stage,
            "shard": shard,
            "parents": json.dumps(dict(self.parents), sort_keys=True),
            "counts": json.dumps(dict(counts), sort_keys=True),
            "config": self.config.to_json(),
            "code": __version__,
        }
