"""A small real data set with captions, outcomes and a tag, and a training as it is written, for tests of a service."""

import io
import json

import numpy as np
import pyarrow as pa
from PIL import Image

from emoji_ldm.caption.batching import caption_id
from emoji_ldm.config import build
from emoji_ldm.dataset import checkpoints
from emoji_ldm.dataset.lineage import Lineage, RunInfo
from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.versions import refs
from emoji_ldm.images.fingerprint import fingerprint
from emoji_ldm.schemas import CAPTIONS, IMAGES, LATENTS, OUTCOMES
from emoji_ldm.store import Store
from tests.emoji_images import blobs, image_rows

NUM_IMAGES = 8
RUN = "demo-1"
LINEAGE = Lineage(RunInfo(RUN, "{}"), "crawl", {})
STEPS = (0, 100, 200, 300)


def config_of(store):
    """A configuration of the store."""
    return build({"run": RUN, "store": store.uri}, where="test")


def commit(store, spec, rows, shard):
    """Add rows to a table, with null for what they lack."""
    table = Table(store, spec)
    whole = [{**dict.fromkeys(spec.schema.names), **row} for row in rows]
    file = table.write_file(pa.Table.from_pylist(whole, schema=spec.schema))
    table.commit([file], app_id=shard, metadata=LINEAGE.metadata({}, shard))
    return table.version


def caption_row(image_id, text, engine="metadata", number=0, **attributes):
    """A row of `captions`."""
    key = caption_id(image_id, engine, number)
    return {"caption_id": key, "image_id": image_id, "caption": text, "engine": engine, "engine_key": engine,
            "number": number, "attempts": 1, "status": "ok", "reason": "", **attributes}  # fmt: skip


def outcome_row(url, outcome, image_id=None, kind="image", reason=""):
    """A row of `outcomes`."""
    return {"url": url, "kind": kind, "outcome": outcome, "reason": reason, "image_id": image_id, "http_status": 200}


def fill_dataset(store, titles=()):
    """Commit blobs, captions of all but the last, and outcomes; the tag `v1` has all but the last two. Returns the ids.

    `titles` replaces the first titles.
    """
    rows = image_rows(blobs(NUM_IMAGES)).to_pylist()
    for row, title in zip(rows, titles, strict=False):
        row["title"] = title
    for row in rows:
        with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
            row["fingerprint"] = fingerprint(np.asarray(image.convert("RGBA")))
        row["tags"] = ["Blobs", "license:CC-BY-4.0"]
    ids = [row["image_id"] for row in rows]
    kept = [outcome_row(row["source_url"], "kept", row["image_id"]) for row in rows]
    others = [outcome_row("https://emoji.test/copy.png", "duplicate-of", ids[0], reason="near duplicate"),
              outcome_row("https://emoji.test/gone.png", "dead", reason="404"),
              outcome_row("https://emoji.test/", "listed", kind="page")]  # fmt: skip
    commit(store, IMAGES, rows[:-2], "images-1")
    commit(store, OUTCOMES, [*kept, *others], "outcomes-1")
    sentences = {row["image_id"]: f"{row['title']} emoji, happy expression." for row in rows}
    captions = [caption_row(image_id, text, expression="happy") for image_id, text in sentences.items()]
    commit(store, CAPTIONS, captions[:-2], "captions-1")
    refs.create_tag(store, "v1", "first release")
    commit(store, IMAGES, rows[-2:], "images-2")
    commit(store, CAPTIONS, captions[-2:-1], "captions-2")
    return ids


def log_line(step):
    """A line of a training's log."""
    line = {"step": step, "loss": 1 / (1 + step / 50), "grad_norm": 0.5, "lr": 1e-4, "images_per_s": 32.0,
            "step_s": 0.5, "data_wait": 0.01, "saving": 0.0, "skipped": 0, "memory_mb": [800, 820],
            "time_s": step / 2}  # fmt: skip
    return line | ({"validation_loss": 1.1 / (1 + step / 50)} if step % 100 == 0 else {})


def write_log(store, lines, run=RUN, section="train"):
    """Write the log of a training."""
    store.write("".join(json.dumps(line) + "\n" for line in lines).encode(), "runs", run, section, "losses.jsonl")


def fill_training(store, run=RUN, steps=STEPS, planned=1000):
    """A training with a log, sample grids, and a checkpoint at its last step; returns the checkpoint's path."""
    write_log(store, [log_line(step) for step in range(0, steps[-1] + 1, 10)], run)
    for step in steps:
        store.write(grid_png(step), "runs", run, "train", "samples", f"step-{step:08d}.png")
    path = f"checkpoints/{run}/unet/{checkpoints.folder_name(steps[-1])}"
    write_model_files(store, f"{path}/pipeline")
    config = {"run": run, "train": {"steps": planned}}
    images = Table(store, IMAGES)
    facts = {"versions": {"latents": _latents_of(store)}} if images.exists else {}
    checkpoints.publish_checkpoint(store, path, {"step": steps[-1], "config": config, "config_version": 3, **facts})
    return path


def grid_png(step):
    """A grid of two emoji that become clearer with the steps."""
    sheet = Image.new("RGBA", (256, 128), (255, 255, 255, 255))
    for place, blob in enumerate(blobs(2)):
        with Image.open(io.BytesIO(blob.data)) as image:
            small = image.convert("RGBA").resize((4 + step // 10,) * 2).resize((128, 128))
            sheet.alpha_composite(small, (128 * place, 0))
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()


def write_model_files(store: Store, path: str):
    """The small files by which a pipeline is known; its weights are empty, as nothing loads them."""
    parts = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "scheduler": "DDIMScheduler"}
    index = {"_class_name": "StableDiffusionPipeline", **{name: ["diffusers", kind] for name, kind in parts.items()}}
    files = {
        "model_index.json": index,
        "unet/config.json": {"sample_size": 16, "in_channels": 4, "block_out_channels": [16, 32]},
        "vae/config.json": {"block_out_channels": [16, 16], "latent_channels": 4, "out_channels": 4},
        "scheduler/scheduler_config.json": {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000},
        "text_encoder/config.json": {},
        "tokenizer/vocab.json": {},
    }
    for name, value in files.items():
        store.write(json.dumps(value).encode(), path, name)
    empty = b"\x02\0\0\0\0\0\0\0{}"  # safetensors: the length of the header, and the header
    for part in ("unet", "vae", "text_encoder"):
        name = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        store.write(empty, path, part, f"{name}.safetensors")


def _latents_of(store):
    """Rows that say which images a model was trained on; returns the version."""
    ids = Table(store, IMAGES).read(["image_id"])["image_id"].to_pylist()
    rows = [{"latent_id": f"l-{each}", "image_id": each, "vae_key": "v", "shape": [1, 1, 1], "mean": b"xx",
             "logvar": b"xx"} for each in ids]  # fmt: skip
    return commit(store, LATENTS, rows, "latents")
