"""An evaluation as it is kept: one JSON object with every figure and the settings that it depends on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from emoji_ldm.errors import StoreError
from emoji_ldm.evaluate.figures import Figures
from emoji_ldm.store import Store

FORMAT = 1  # of the JSON; raise it when names or meanings change
FOLDER = "evaluations"


@dataclass(frozen=True)
class EvaluatedSystem:
    """One model, or folder of pictures, with its figures."""

    name: str
    source: str  # URI of the model, or the folder
    model_key: str  # hash of its weights; "" for a folder
    settings: Mapping[str, Any]  # sampler, steps, guidance, seeds, weights (EMA) and the like
    num_pictures: int
    figures: Figures
    grid: Figures = field(default_factory=dict)  # of the pictures of the prompt grid


@dataclass(frozen=True)
class Evaluation:
    """The result of one `emoji-ldm evaluate`."""

    id: str
    run: str
    time: str
    code: str
    features: str
    data: Mapping[str, Any]  # store, table versions, numbers of pictures, size at which they are compared
    systems: Sequence[EvaluatedSystem]
    real: Figures  # the same figures of real emoji that no model was trained on
    prompts: Sequence[Mapping[str, Any]]
    failed: Sequence[str] = ()  # gates
    format: int = FORMAT

    def to_json(self) -> str:
        """The evaluation as JSON."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Evaluation:
        """Read back what `to_json` wrote; StoreError for a newer format."""
        values = json.loads(text)
        if values.get("format") != FORMAT:
            raise StoreError(
                f"evaluation {values.get('id')} has format {values.get('format')}, this code reads {FORMAT}"
            )
        return cls(**{**values, "systems": [EvaluatedSystem(**system) for system in values["systems"]]})


def new_id(run: str) -> tuple[str, str]:
    """An id that sorts by time, and the time."""
    now = datetime.now(UTC)
    return f"{now:%Y%m%dT%H%M%S}-{now.microsecond // 1000:03}_{run}", now.isoformat(timespec="seconds")


def newest_evaluation(store: Store, run: str) -> Evaluation | None:
    """The newest evaluation of a run; None if there is none."""
    # The time stands first and holds no "_", so that the rest is the name of the run.
    names = [name for name in store.list(FOLDER) if name.partition("_")[2] == f"{run}.json"]
    return Evaluation.from_json(store.read(FOLDER, names[-1])) if names else None
