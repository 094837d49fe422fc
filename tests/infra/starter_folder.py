"""A folder of `infra.starter` with a few drawings, a random autoencoder and real captions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from infra.starter.autoencoder import Autoencoder, AutoencoderShape
from infra.starter.recolor import leading_hue, recolor

COLORS = ("blue", "green")


def write_starter_folder(folder: Path, num: int = 6) -> Path:
    """Discs of one colour on nothing, each followed by two recoloured copies; the last drawing is held out."""
    pictures, records = [], []
    down, right = np.mgrid[:64, :64]
    for number in range(num):
        inside = (down - 32) ** 2 + (right - 32) ** 2 < (12 + number) ** 2
        picture = np.zeros((64, 64, 4), np.uint8)
        picture[inside] = (220, 40 + 5 * number, 30, 255)
        held = number == num - 1
        row = {
            "label": f"disc {number}",
            "group": number % 3,
            "split": "concept" if held else "train",
            "mirrored": True,
        }
        pictures.append(picture)
        records.append(row | {"recolored": False, "color": "red", "captions": [f"disc {number}", f"red disc {number}"]})
        for color in () if held else COLORS:
            pictures.append(recolor(picture, leading_hue(picture)[0], color))
            records.append(row | {"recolored": True, "color": color, "captions": [f"{color} disc {number}"]})
    autoencoder = folder / "autoencoder" / "final"
    autoencoder.mkdir(parents=True)
    np.save(folder / "pictures.npy", np.stack(pictures))
    (folder / "records.json").write_text(json.dumps(records))
    torch.manual_seed(0)
    model = Autoencoder(AutoencoderShape(latent_channels=8, widths=(8, 16)))
    torch.save({"shape": model.config(), "average": model.state_dict()}, autoencoder / "last.pt")
    return folder
