"""What the loop needs to know and to be given, the same for the U-Net and the autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from emoji_ldm.config import Config
from emoji_ldm.store import Store

Preview = Callable[[Path, tuple[str, ...]], bytes]  # (pipeline folder, prompts) -> PNG of a sample grid


@dataclass(frozen=True)
class Plan:
    """The numbers of one training; see `TrainConfig` for their meaning."""

    section: str  # of the configuration; also the folder of the run's records
    kind: str  # of the checkpoints
    steps: int
    batch_size: int
    lr: float
    seed: int
    checkpoint_every: int
    warmup_steps: int = 20
    weight_decay: float = 1e-4
    grad_clip: float = 1.0
    ema_decay: float = 0.99
    zero_stage: int = 0
    precision: str = "fp32"
    keep: int = 2
    log_every: int = 10
    sample_every: int = 0


def plan_of(config: Config, section: str) -> Plan:
    """The plan of section `train` (the U-Net) or `autoencoder`; fields that a section lacks keep their default."""
    values = getattr(config, section).model_dump()
    known = {name: values[name] for name in Plan.__dataclass_fields__ if name in values}
    return Plan(section=section, kind="unet" if section == "train" else section, **known)


class Task(Protocol):
    """A network, its data and its loss."""

    module: nn.Module
    facts: Mapping[str, Any]  # go into the checkpoint's manifest: parents, sizes

    def draw(self, step: int, slots: range) -> Any:
        """Host side of a batch: everything chance and order decide; runs one step ahead in a thread."""
        ...

    def loss(self, forward: Callable[..., Any], drawn: Any) -> Tensor:
        """The mean loss of the batch, as a scalar on the device; `forward` is the module or the engine around it."""
        ...

    def export(self, weights: Mapping[str, Tensor], folder: Path) -> dict[str, Any]:
        """Write what users load (rank 0 only), made of averaged weights; returns facts about it."""
        ...

    def preview(self, folder: Path) -> bytes | None:
        """A PNG of what the exported model draws, or None."""
        ...


@dataclass(frozen=True)
class Place:
    """Where a training runs, and whom it tells."""

    config: Config
    store: Store
    scratch: Path  # local folder of this process
    owner: str = ""  # token of the driver that may publish; empty means nobody else can
    report: Callable[[dict[str, Any]], None] = field(default=lambda facts: None)  # called at checkpoints, on every rank
