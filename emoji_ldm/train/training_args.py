"""What the training loop is given: settings, the task to learn, and the context it runs in.

The loop is the same for the diffusion U-Net and the autoencoder. It knows them only through these types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from emoji_ldm.config import Config
from emoji_ldm.store import Store

# For annotations only: the log of a training, which the report reads, needs no torch.
if TYPE_CHECKING:
    from torch import Tensor, nn

# Drawing needs the generation package, which training must not import, so a function is passed in: (pipeline folder,
# prompts of the sample grid, (PNG, caption) of validation images) -> {name of a grid: PNG}
PreviewFunction = Callable[[Path, tuple[str, ...], Sequence[tuple[bytes, str]]], dict[str, bytes]]

# The kind is a folder of every store, so it stays "unet" although the section is called `train`.
CHECKPOINT_KINDS = {"train": "unet", "autoencoder": "autoencoder"}  # {config section: kind of its checkpoints}


@dataclass(frozen=True)
class TrainingArgs:
    """The settings of one training run; see `TrainConfig` and `AutoencoderConfig` for their meaning and defaults."""

    # All fields are named as in the configuration: `build_training_args` copies them by name.
    section: str  # section of the configuration, and folder of the run's logs
    kind: str  # kind of the checkpoints
    steps: int
    batch_size: int
    micro_batch_size: int | None
    optimizer: str
    lr: float
    lr_schedule: str
    lr_end: float
    warmup_steps: int
    weight_decay: float
    adam_betas: tuple[float, float]
    grad_clip: float
    spike_factor: float | None
    ema_decay: float
    ema_widths: tuple[float, ...]
    zero_stage: int
    sharding: str
    offload: str | None
    offload_folder: str | None
    precision: str
    channels_last: bool
    compile: bool
    gradient_checkpointing: bool
    deterministic: bool
    seed: int
    checkpoint_every: int
    keep_last: int
    resume: str | None
    log_every: int
    profile: str | None
    mlflow: str | None
    wandb: str | None
    sample_every: int | None  # null where the section has no sample grids
    validate_every: int | None  # null where the section has no validation images


def build_training_args(config: Config, section: str) -> TrainingArgs:
    """The settings of section `train` (the U-Net) or `autoencoder`."""
    settings = getattr(config, section)
    # The autoencoder has neither sample grids nor a validation split: its quality is measured at each export.
    values: dict[str, Any] = {name: getattr(settings, name, None) for name in TrainingArgs.__dataclass_fields__}
    return TrainingArgs(**{**values, "section": section, "kind": CHECKPOINT_KINDS[section]})


class TrainingTask(Protocol):
    """A network, its data and its loss."""

    module: nn.Module
    manifest_facts: Mapping[str, Any]  # written into the checkpoint's manifest: parent versions, sizes, model keys

    def prepare_batch(self, step: int, slots: range) -> Any:
        """The samples at positions `slots` of the step's global batch, on the host.

        All randomness and data order is decided here. It is called once per forward pass, one step ahead, in a thread.
        """
        ...

    def loss(self, forward: Callable[..., Any], batch: Any) -> Tensor:
        """The mean loss over a prepared batch, a scalar on the device; `forward` is the module's, or an engine's."""
        ...

    def validation_batches(self, slots: range) -> Iterable[Any]:
        """Batches of validation images: the same images with the same noise each time; `slots` as above.

        Every rank gets the same number of batches, possibly none. Their mean `loss` is the validation loss.
        """
        ...

    def export(self, weights: Mapping[str, Tensor], folder: Path) -> dict[str, Any]:
        """Write the model for users, with `{name of a trained parameter: whole tensor}`; returns facts about it.

        It runs on rank 0, possibly in a thread beside training: it must not touch the weights of `module`.
        """
        ...

    def preview(self, folder: Path) -> Mapping[str, bytes]:
        """`{name: PNG}` of what the exported model draws: `samples`, and `pairs` if there are validation images."""
        ...


@dataclass(frozen=True)
class RunContext:
    """Where a training runs and where it stores its results."""

    config: Config
    store: Store
    scratch_dir: Path  # local folder of this process
    # The defaults are those of a training that was started by hand: one driver, on a machine that nobody takes away.
    owner_token: str = ""  # fencing token of the driver, see `run_fencing`; empty means that there is only one
    preemption_notice: Callable[[], bool] = field(default=lambda: False)  # polled at steps on every rank: save now?
