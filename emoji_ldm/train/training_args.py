"""What the loop needs to know and to be given, the same for the U-Net and the autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from emoji_ldm.config import Config
from emoji_ldm.store import Store

# (pipeline folder, prompts of the sample grid, (PNG, caption) of images held out) -> {name of a grid: PNG}
PreviewFunction = Callable[[Path, tuple[str, ...], Sequence[tuple[bytes, str]]], dict[str, bytes]]


@dataclass(frozen=True)
class TrainingArgs:
    """The numbers of one training; see `TrainConfig` for their meaning."""

    section: str  # of the configuration; also the folder of the run's records
    kind: str  # of the checkpoints
    steps: int
    batch_size: int
    lr: float
    seed: int
    checkpoint_every: int
    micro_batch_size: int | None = None
    optimizer: str = "adamw"
    lr_schedule: str = "cosine"
    lr_end: float = 0.1
    warmup_steps: int = 20
    weight_decay: float = 1e-4
    grad_clip: float = 1.0
    spike_factor: float | None = None
    ema_decay: float = 0.99
    ema_widths: tuple[float, ...] = ()
    zero_stage: int = 0
    precision: str = "fp32"
    channels_last: bool = False
    compile: bool = False
    gradient_checkpointing: bool = False
    deterministic: bool = False
    keep: int = 2
    resume: str = ""
    log_every: int = 10
    sample_every: int | None = None
    validate_every: int = 0
    mlflow: str = ""
    wandb: str = ""


def build_training_args(config: Config, section: str) -> TrainingArgs:
    """The plan of section `train` (the U-Net) or `autoencoder`; fields that a section lacks keep their default."""
    values = getattr(config, section).model_dump()
    known = {name: values[name] for name in TrainingArgs.__dataclass_fields__ if name in values and name != "kind"}
    return TrainingArgs(section=section, kind="unet" if section == "train" else section, **known)


class TrainingTask(Protocol):
    """A network, its data and its loss."""

    module: nn.Module
    facts: Mapping[str, Any]  # go into the checkpoint's manifest: parents, sizes

    def draw(self, step: int, slots: range) -> Any:
        """Host side of the samples in places `slots` of the step's batch: all that chance and order decide.

        It is called once per forward pass, one step ahead, in a thread.
        """
        ...

    def loss(self, forward: Callable[..., Any], drawn: Any) -> Tensor:
        """The mean loss over what was drawn, as a scalar on the device; `forward` is the module, or an engine's."""
        ...

    def held_out(self, slots: range) -> Iterable[Any]:
        """Batches of some images held out, the same ones with the same noise each time; `slots` as in `draw`.

        Every rank gets as many, maybe none. Their mean `loss` is the validation loss.
        """
        ...

    def export(self, weights: Mapping[str, Tensor], folder: Path) -> dict[str, Any]:
        """Write what users load, made of these weights `{name of a trained parameter: whole tensor}`; facts about it.

        Runs on rank 0, maybe in a thread beside training: it must not touch `module`'s weights.
        """
        ...

    def preview(self, folder: Path) -> Mapping[str, bytes]:
        """{name: PNG} of what the exported model draws: `samples`, and `pairs` where images are held out."""
        ...


@dataclass(frozen=True)
class RunContext:
    """Where a training runs, and whom it tells."""

    config: Config
    store: Store
    scratch: Path  # local folder of this process
    owner: str = ""  # token of the driver that may publish; empty means nobody else can
    leaving: Callable[[], bool] = field(default=lambda: False)  # asked at steps on every rank: save now?
