"""The starter's data set on the way to a GPU: a folder of 40 MB from which the GPU computes the rest, 1 GB, again.

Packed are the drawings (recoloured copies are computed from them), captions, the autoencoder and the text encoder in
float16, of whose vocabulary only the words that captions and prompts use. Computed again are the recoloured copies, bit
by bit, and latents and token states, up to the rounding of bf16.
"""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from emoji_ldm.latents.minilm import minilm_folder
from emoji_ldm.latents.text_encoder import load_text_encoder
from infra.starter.prompts import PROMPTS
from infra.starter.recolor import leading_hue, recolor
from infra.starter.text_states import MAX_TOKENS

AUTOENCODER = "final"
ENCODER = "text-encoder"
Pictures = NDArray[np.uint8]


def pack_starter_data(data: Path, folder: Path) -> None:
    """Write the folder that `restore_starter_data` reads.

    Args:
        data: The folder of `infra.starter`, with pictures.npy, records.json and autoencoder/final.
        folder: Where to write; it is created.
    """
    folder.mkdir(parents=True)
    pictures, records = np.load(data / "pictures.npy", mmap_mode="r"), json.loads((data / "records.json").read_text())
    kept = [row for row, record in enumerate(records) if not record["recolored"]]
    np.save(folder / "drawings.npy", np.asarray(pictures[kept]))
    shutil.copy(data / "records.json", folder)
    state = torch.load(data / "autoencoder" / AUTOENCODER / "last.pt", map_location="cpu", weights_only=False)
    average = {name: weight.half() for name, weight in state["average"].items()}
    torch.save({"shape": state["shape"], "average": average}, folder / "autoencoder.pt")
    _pack_text_encoder({caption for record in records for caption in record["captions"]}, folder / ENCODER)


def _pack_text_encoder(captions: set[str], folder: Path) -> None:
    source, encoder = minilm_folder(), load_text_encoder("minilm", max_tokens=MAX_TOKENS, device="cpu")
    folder.mkdir()
    for path in source.glob("*.*"):
        if path.suffix in (".json", ".txt") and path.name != "data_config.json":
            shutil.copy(path, folder)
    numbers = encoder.tokenizer([*captions, *PROMPTS, ""], truncation=True, max_length=MAX_TOKENS).input_ids
    used = torch.tensor(sorted({number for row in numbers for number in row} | {encoder.tokenizer.pad_token_id}))
    weights = {name: weight.half() if weight.is_floating_point() else weight
               for name, weight in load_file(source / "model.safetensors").items()}  # fmt: skip
    words = next(name for name in weights if name.endswith("word_embeddings.weight"))
    # Rows of unused words are zero, and so cost nothing once the bundle is compressed.
    table = torch.zeros_like(weights[words])
    table[used] = weights[words][used]
    save_file(weights | {words: table}, folder / "model.safetensors", metadata={"format": "pt"})


def restore_starter_data(packed: Path, data: Path, device: torch.device) -> None:
    """Write what `infra.starter`'s modules read; parts that are there already are kept."""
    folder = data / "autoencoder" / AUTOENCODER
    folder.mkdir(parents=True, exist_ok=True)
    records = json.loads((packed / "records.json").read_text())
    shutil.copy(packed / "records.json", data)
    shutil.copy(packed / "autoencoder.pt", folder / "last.pt")
    if not (data / "pictures.npy").exists():
        _save(data / "pictures.npy", restore_pictures(np.load(packed / "drawings.npy"), records))
    if not (folder / "latents.npy").exists():
        _encode_pictures(data, folder, device)
    if not (data / "states.npy").exists():
        _encode_texts(packed / ENCODER, records, data, device)


def restore_pictures(drawings: Pictures, records: list[dict[str, Any]]) -> Pictures:
    """All pictures `(N, 64, 64, 4)`: each drawing followed by its recoloured copies, as in `records`."""
    wanted: list[tuple[Pictures, list[str]]] = []
    for record in records:
        if record["recolored"]:
            wanted[-1][1].append(record["color"])
        else:
            wanted.append((drawings[len(wanted)], []))
    assert len(wanted) == len(drawings), "each drawing has one record"
    # Processes are spawned, since one that is forked from a process with a GPU cannot use that.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        groups = list(pool.map(_with_copies, wanted, chunksize=64))
    return np.concatenate(groups)


def _with_copies(drawing: tuple[Pictures, list[str]]) -> Pictures:
    picture, colors = drawing
    hue = leading_hue(picture)[0] if colors else 0.0
    return np.stack([picture, *(recolor(picture, hue, color) for color in colors)])


@torch.no_grad()
def _encode_pictures(data: Path, folder: Path, device: torch.device, batch: int = 512) -> None:
    """As `infra.starter.latent_data.encode_pictures`, on the device."""
    from infra.starter.train_autoencoder import load_autoencoder, to_tensor

    model, pictures = load_autoencoder(AUTOENCODER).to(device), np.load(data / "pictures.npy", mmap_mode="r")
    sides = []
    for mirrored in (False, True):
        parts = []
        for first in range(0, len(pictures), batch):
            pixels = to_tensor(pictures[first : first + batch]).to(device)
            with torch.autocast(device.type, torch.bfloat16):
                parts.append(model.encode(pixels.flip(3) if mirrored else pixels).half().contiguous().cpu().numpy())
        sides.append(np.concatenate(parts))
    plain = sides[0].astype(np.float32)
    figures = {"mean": plain.mean((0, 2, 3)).tolist(), "std": plain.std((0, 2, 3)).tolist()}
    (folder / "latents.json").write_text(json.dumps(figures))
    _save(folder / "latents.npy", np.stack(sides))


def _encode_texts(
    encoder_folder: Path, records: list[dict[str, Any]], data: Path, device: torch.device, batch: int = 1024
) -> None:
    """As `infra.starter.text_states`, on the device."""
    captions = {caption for record in records for caption in record["captions"]}
    texts = ["", *sorted(captions - {""}, key=lambda text: (len(text), text))]
    encoder = load_text_encoder(str(encoder_folder), max_tokens=MAX_TOKENS, device=str(device))
    states: list[NDArray[np.float16]] = []
    with torch.autocast(device.type, torch.bfloat16):
        for first in range(0, len(texts), batch):
            states += [state.astype(np.float16) for state in encoder.encode(texts[first : first + batch])]
    (data / "texts.json").write_text(
        json.dumps({"texts": texts, "ends": np.cumsum([len(state) for state in states]).tolist()})
    )
    _save(data / "states.npy", np.concatenate(states))


def _save(path: Path, values: NDArray[Any]) -> None:
    """Its existence means that it is complete."""
    temporary = path.with_suffix(".tmp.npy")
    np.save(temporary, values)
    temporary.replace(path)
