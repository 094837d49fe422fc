"""Sheets of the packaged starter for prompts that were fixed before anything was drawn: nothing is picked.

    python -m infra.starter.prompt_sheets readme docs/images/starter.png
    python -m infra.starter.prompt_sheets held-out sheets

`readme` draws the fixed prompts with the fixed seeds. `held-out` draws 100 held-out (concept, style) pairs whose
concept was trained on in another style, chosen by hash, and writes blind.png (numbers instead of captions, to be named
by a person), truth.png (the true pictures in the same order) and prompts.txt.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from emoji_ldm.generate.offline_sampler import OfflineSampler
from emoji_ldm.generate.output_folder import contact_sheet
from emoji_ldm.generate.pipeline_loader import load_model
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.latents.starter_model import starter_folder
from infra.starter.paths import DATA
from infra.starter.prompts import PROMPTS, SEEDS

NUM_HELD_OUT = 100
COLUMNS, SIDE_PX, GAP_PX, FONT_PX = 4, 128, 24, 24  # of the sheet of the README, shown at half its size
Bytes = NDArray[np.uint8]


def draw(wanted: list[tuple[str, int]], steps: int, batch: int = 8) -> list[Bytes]:
    """Pictures `(64, 64, 4)` with straight alpha for (prompt, seed), in their order."""
    sampler = OfflineSampler(load_model(starter_folder(), "cpu"), batch)
    return sampler([GenerationRequest(prompt, seed=seed, steps=steps) for prompt, seed in wanted])


def held_out_pairs() -> list[tuple[int, dict[str, Any]]]:
    """(row, record) of pairs that were held out, in the order of the hash of style and name."""
    records = enumerate(json.loads((DATA / "records.json").read_text()))
    pairs = [(row, entry) for row, entry in records if entry["split"] == "pair" and not entry["recolored"]]
    pairs.sort(key=lambda pair: hashlib.sha256(f"{pair[1]['style']}:{pair[1]['slug']}".encode()).digest())
    return pairs[:NUM_HELD_OUT]


def png_of(pixels: Bytes) -> bytes:
    """A PNG file of RGBA pixels."""
    stream = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(stream, "PNG")
    return stream.getvalue()


def grouped_sheet(images: list[Bytes]) -> Image.Image:
    """The pictures of each fixed prompt side by side under one caption, `COLUMNS` prompts in a row, on white."""
    font, num = ImageFont.load_default(FONT_PX), len(SEEDS)
    width, height = num * SIDE_PX + 2 * GAP_PX, SIDE_PX + 2 * FONT_PX + GAP_PX
    rows = -(-len(PROMPTS) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * width, rows * height + GAP_PX), "white")
    pen = ImageDraw.Draw(sheet)
    for place, prompt in enumerate(PROMPTS):
        left, top = place % COLUMNS * width + GAP_PX, place // COLUMNS * height + GAP_PX
        for number, image in enumerate(images[place * num :][:num]):
            picture = Image.fromarray(image, "RGBA").resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
            sheet.paste(picture, (left + number * SIDE_PX, top), picture)
        pen.text((left + num * SIDE_PX / 2, top + SIDE_PX + FONT_PX / 3), prompt, "#24292f", font, anchor="ma")
    return sheet


def straight(premultiplied: Bytes) -> Bytes:
    """Premultiplied pixels with straight alpha."""
    return np.asarray(Image.frombytes("RGBa", premultiplied.shape[1::-1], premultiplied.tobytes()).convert("RGBA"))


def main() -> None:
    """Draw one of the sheets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sheet", choices=("readme", "held-out"))
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=25)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.sheet == "readme":
        wanted = [(prompt, seed) for prompt in PROMPTS for seed in SEEDS]
        options.output.parent.mkdir(parents=True, exist_ok=True)
        grouped_sheet(draw(wanted, options.steps)).quantize(256).save(options.output, optimize=True)
        return
    options.output.mkdir(parents=True, exist_ok=True)
    pairs, pictures = held_out_pairs(), np.load(DATA / "pictures.npy", mmap_mode="r")
    prompts = [entry["captions"][0] for _, entry in pairs]
    drawn = draw([(prompt, number) for number, prompt in enumerate(prompts)], options.steps)
    true = [straight(np.array(pictures[row])) for row, _ in pairs]
    for name, images in (("blind", drawn), ("truth", true)):
        cards = [(png_of(image), str(number)) for number, image in enumerate(images)]
        (options.output / f"{name}.png").write_bytes(contact_sheet(cards, columns=10))
    (options.output / "prompts.txt").write_text("".join(f"{n}\t{prompt}\n" for n, prompt in enumerate(prompts)))


if __name__ == "__main__":
    main()
