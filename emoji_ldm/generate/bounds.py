"""What a model can draw, told by its files alone; light, so that a service knows it before a replica has loaded it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from emoji_ldm.errors import ModelError
from emoji_ldm.generate.draw import fitting_schedulers
from emoji_ldm.generate.source import model_key
from emoji_ldm.latents.source import local_folder, read_json

TIMESTEPS = 1000  # of diffusers' schedulers where a configuration does not say
LARGER = 2  # sides up to so many times the model's own


@dataclass(frozen=True)
class Bounds:
    """What weights can draw."""

    model_key: str
    width_px: int  # of a picture where a draw does not say
    height_px: int
    side_step_px: int  # sides are multiples of this
    max_side_px: int
    max_steps: int
    schedulers: tuple[str, ...]  # the first is what "" means
    loras: tuple[str, ...]


def bounds_of(folder: Path | str, loras: Iterable[str] = ()) -> Bounds:
    """The bounds of a pipeline folder or hub id, as `Batcher.bounds` tells them once it is loaded.

    A scheduler with exotic settings may be missing there: its draws are refused then.

    Raises:
        ModelError: It is no such pipeline, or not made for square pictures.
    """
    folder = local_folder(folder)
    unet, vae = (read_json(folder / part / "config.json") for part in ("unet", "vae"))
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    cells, cell_px = unet.get("sample_size"), 2 ** (len(vae["block_out_channels"]) - 1)
    if not isinstance(cells, int):
        raise ModelError(f"{folder / 'unet'}: sample_size={cells} is no number; only models of square pictures work")
    return Bounds(
        model_key(folder), cells * cell_px, cells * cell_px, side_step_px(cell_px, len(unet["block_out_channels"])),
        LARGER * cells * cell_px, int(scheduler.get("num_train_timesteps", TIMESTEPS)) - 1,
        fitting_schedulers(scheduler), tuple(loras),
    )  # fmt: skip


def side_step_px(cell_px: int, num_resolutions: int) -> int:
    """Sides are multiples of this: a U-Net halves a latent, of so many pixels per cell, once per further resolution."""
    return int(cell_px * 2 ** (num_resolutions - 1))
