"""Bytes per image of the cached latents and texts in the store, against token states padded to 77 tokens of fp16.

The images are real emoji, once with the captions of the hand-written reference ("A photo of {title}") and once with the
sentences of the engine `metadata`, which are three times as long. States are those of the real all-MiniLM-L6-v2;
latents of 64 px have Stable Diffusion's shape (random weights). The usual layout holds a sample of the posterior and 77
states per caption. Without padding the ratio is at least tokens / 77: 0.32 for the sentences, before compression.
"""

from __future__ import annotations

import io
import statistics
import tempfile
from typing import Any

import pyarrow as pa
import torch
from diffusers import AutoencoderKL
from PIL import Image

from emoji_ldm.caption.engine_protocol import CaptionInput
from emoji_ldm.caption.metadata import describe_image
from emoji_ldm.dataset.table import Table
from emoji_ldm.latents.cache import latent_rows, text_rows
from emoji_ldm.latents.text_encoder import load_text_encoder
from emoji_ldm.latents.vae import to_square, to_tensor
from emoji_ldm.schemas import LATENTS, TEXT_EMBEDDINGS, TableSpec
from emoji_ldm.store import Store
from tests.emoji_images import blobs, image_rows, openmoji

PADDED_TOKENS, SIZE_PX, BATCH = 77, 64, 64
FLOOR, TARGET = 0.25, 0.1


def run(*, quick: bool) -> dict[str, Any]:
    """Bytes per image of both layouts and their ratio, for each kind of caption."""
    rows = image_rows((*blobs(100), *openmoji(60 if quick else 600))).to_pylist()
    rows = list({row["image_id"]: row for row in rows}.values())
    mean, logvar = _encode(rows)
    text = load_text_encoder("minilm", max_tokens=32, device="cpu")
    padded = 2 * (mean[0].size + PADDED_TOKENS * text.width)
    figures: dict[str, Any] = {"images": len(rows), "padded layout, bytes per image": padded}
    for name, captions in {
        "titles": [f"A photo of {row['title']}" for row in rows],
        "sentences": [_sentence(row) for row in rows],
    }.items():
        with tempfile.TemporaryDirectory() as folder:
            store = Store(folder)
            latents = _stored(store, LATENTS, latent_rows([row["image_id"] for row in rows], "codec", mean, logvar))
            distinct = sorted({"", *captions})
            parts = (distinct[start : start + BATCH] for start in range(0, len(distinct), BATCH))
            states = [state for part in parts for state in text.encode(part)]
            texts = _stored(store, TEXT_EMBEDDINGS, text_rows(distinct, text.key, states))
        figures |= {
            f"{name}: distinct captions": len(distinct),
            f"{name}: tokens per caption": round(statistics.mean(len(state) for state in states), 1),
            f"{name}: bytes of latents per image": round(latents / len(rows)),
            f"{name}: bytes of texts per image": round(texts / len(rows)),
            f"{name}: ratio": round((latents + texts) / len(rows) / padded, 3),
        }
    ratios = [name for name in figures if name.endswith(": ratio")]
    return {"figures": figures, "floor": dict.fromkeys(ratios, FLOOR), "target": dict.fromkeys(ratios, TARGET),
            "holds": all(figures[name] <= FLOOR for name in ratios)}  # fmt: skip


def _sentence(row: dict[str, Any]) -> str:
    with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
        return describe_image(CaptionInput(image.convert("RGBA"), row["title"], tuple(row["tags"]))).text


@torch.inference_mode()
def _encode(rows: list[dict[str, Any]]) -> tuple[Any, Any]:
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(32, 32, 32, 32), layers_per_block=1, norm_num_groups=8, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    ).eval()  # fmt: skip
    moments = []
    for start in range(0, len(rows), BATCH):
        pixels = [to_square(row["image"]["bytes"], SIZE_PX) for row in rows[start : start + BATCH]]
        posterior = vae.encode(torch.cat([to_tensor(one[None], 3, "white") for one in pixels])).latent_dist
        moments.append((posterior.mean, posterior.logvar))
    mean, logvar = (torch.cat(parts).numpy() for parts in zip(*moments, strict=True))
    return mean, logvar


def _stored(store: Store, spec: TableSpec, rows: pa.Table) -> int:
    """Bytes of the table's data files, including ids and statistics."""
    table = Table(store, spec)
    table.commit([table.write_file(rows)], app_id="all", metadata={})
    names = store.list("tables", spec.name, recursive=True)
    infos = [store.filesystem.get_file_info(store.path("tables", spec.name, name)) for name in names]
    return sum(info.size for info in infos if info.is_file and info.path.endswith(".parquet"))
