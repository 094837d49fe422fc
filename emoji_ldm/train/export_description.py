"""What an export says of itself: a model card for people, a file of facts for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emoji_ldm import __version__
from emoji_ldm.dataset.checkpoints import Checkpoint

CARD_FILE, FACTS_FILE = "README.md", "emoji_ldm.json"
ADAPTER_FILE = "pytorch_lora_weights.safetensors"  # at the top of an export of adapters alone


@dataclass(frozen=True)
class ExportRequest:
    """Which weights of which checkpoint to export."""

    section: str  # train or autoencoder
    weights: str = "ema"  # ema, ema2 (the second average of ema_widths) or raw
    checkpoint: str = ""  # path or URI of a checkpoint in the store; empty takes the run's newest


def write_description(
    checkpoint: Checkpoint, manifest: Mapping[str, Any], request: ExportRequest, folder: Path
) -> dict[str, Any]:
    """Write the model card and the facts file; returns the facts that the command prints."""
    step = int(manifest["step"])
    (folder / CARD_FILE).write_text(_model_card(manifest, step, request, folder), encoding="utf-8")
    # The list precedes the facts file, which `check_export_folder` adds to it.
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    facts = {
        "checkpoint": checkpoint.uri, "step": step, "weights": request.weights,
        "versions": manifest.get("versions", {}),
        "config": manifest.get("config", {}), "code": __version__, "files": sorted(files),
    }  # fmt: skip
    (folder / FACTS_FILE).write_text(json.dumps(facts, indent=1), encoding="utf-8")
    return {"checkpoint": checkpoint.uri, "step": step, "weights": request.weights, "bytes": sum(files.values())}


def _model_card(manifest: Mapping[str, Any], step: int, request: ExportRequest, folder: Path) -> str:
    """The text of the model card, with the front matter that the hub reads."""
    from emoji_ldm.train.tasks.pipeline_export import has_custom_code

    config = manifest.get("config", {})
    opened = "DiffusionPipeline" if request.section == "train" else "AutoModel"
    trust, note = "", ""
    if has_custom_code(folder):
        trust = ", trust_remote_code=True"
        note = "\nThe code to trust is in the `.py` files here: the classes of the text encoder or autoencoder.\n"
    code = f'model = {opened}.from_pretrained("."{trust})'
    if (folder / ADAPTER_FILE).is_file():
        base = config.get("train", {}).get("init", "")
        code = f'model = {opened}.from_pretrained("{base}")\nmodel.load_lora_weights(".")'
    kind = "text-to-image" if request.section == "train" else "image-feature-extraction"
    return (
        f"---\nlibrary_name: diffusers\npipeline_tag: {kind}\ntags: [emoji, latent-diffusion]\n---\n\n"
        f"# {config.get('run', '')}\n\n"
        f"Made by emoji_ldm {__version__} at step {step:,}, weights: {request.weights}. "
        f"`{FACTS_FILE}` holds the resolved\n"
        "configuration and the versions of the data set.\n\n"
        f"```python\nfrom diffusers import {opened}\n\n{code}\n```\n{note}"
    )
