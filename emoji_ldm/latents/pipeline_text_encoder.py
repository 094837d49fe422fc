"""Text encoders of pipelines that have several: SDXL, Stable Diffusion 3 and Flux.

Such a network takes two inputs: token states, and a *pooled* state of the whole prompt. The cache knows rows of one
width, so both are one array: the pooled state comes first, in as many rows as it needs, filled up with zeros; the token
states follow. `pack_states` makes such an array, `unpack_states` takes it apart.

The states are made by the pipeline's own `encode_prompt`, so that training sees what sampling in diffusers gives.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emoji_ldm.config import key_of
from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.latents.pipeline_source import (
    MODEL_INDEX,
    NETWORK_PARTS,
    TEXT_PARTS,
    is_hub_pipeline,
    local_folder,
    pipeline_class,
    read_json,
    resolve_checkpoint_pipeline,
    short_error_text,
)
from emoji_ldm.latents.text_encoder import TextEncoder, TokenStates, load_text_encoder
from emoji_ldm.latents.weights_hash import METADATA_FIELDS

HASH_BLOCK = 2**22  # bytes that are read at once


@dataclass(frozen=True)
class PipelineTextEncoder(TextEncoder):
    """All text encoders of a pipeline; they are loaded when the first caption is encoded.

    A training that reads cached states needs no more than their key, and a T5 of 5 billion weights would not fit beside
    it.
    """

    folder: Path  # of the pipeline
    device: str

    @cached_property
    def _pipeline(self) -> Any:
        return self._load(TEXT_PARTS[pipeline_class(self.folder)])

    def load_parts(self, parts: Sequence[str]) -> dict[str, Any]:
        """Some of the encoders anew on the CPU, `{folder: model}`, without loading the others."""
        pipeline = replace(self, device="cpu")._load(parts)
        return {part: getattr(pipeline, part) for part in parts}

    def tokenize(self, part: str, caption: str) -> Tensor:
        """Token ids `(tokens,)` of a caption for one of the CLIPs, as the pipeline makes them."""
        tokenizer = self._tokenizers[part]
        ids: Tensor = tokenizer(
            caption, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        ).input_ids[0]
        return ids

    @cached_property
    def _tokenizers(self) -> dict[str, Any]:
        from transformers import AutoTokenizer

        return {part: AutoTokenizer.from_pretrained(self.folder / part.replace("text_encoder", "tokenizer"))
                for part in TEXT_PARTS[pipeline_class(self.folder)]}  # fmt: skip

    def _load(self, parts: Sequence[str]) -> Any:
        import diffusers

        kind = pipeline_class(self.folder)
        # Without network and autoencoder, which encoding needs not.
        absent: dict[str, Any] = {"vae": None, NETWORK_PARTS.get(kind, "unet"): None}
        for name in set(TEXT_PARTS[kind]) - set(parts):
            absent |= {name: None, name.replace("text_encoder", "tokenizer"): None}
        try:
            loaded = getattr(diffusers, kind).from_pretrained(self.folder, torch_dtype=torch.float32, **absent)
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelError(f"cannot load the text encoders of {self.folder}: {short_error_text(error)}") from None
        return loaded.to(self.device)

    @torch.inference_mode()
    def encode(self, captions: Sequence[str]) -> list[TokenStates]:
        """Packed states float32 `(rows, width)` per caption, all of one length."""
        if not captions:
            return []
        states, pooled = self._encode_prompts(list(captions))
        packed = pack_states(states.float().cpu(), pooled.float().cpu())
        if self._pipeline.config.get("force_zeros_for_empty_prompt"):
            # SDXL is sampled without a prompt as with states of zero, and has to be trained so.
            packed[[index for index, caption in enumerate(captions) if not caption]] = 0
        return list(packed.numpy())

    def parts(self) -> dict[str, Any]:
        """See `TextEncoder.parts`."""
        return {name: getattr(self._pipeline, name) for name in TEXT_PARTS[pipeline_class(self.folder)]}

    def with_parts(self, parts: Mapping[str, Any], key: str) -> PipelineTextEncoder:
        """See `TextEncoder.with_parts`."""
        other = replace(self, key=key)
        # A pipeline is an object with the parts as attributes; a shallow copy shares all that are not replaced.
        pipeline = copy.copy(self._pipeline)
        for name, module in parts.items():
            setattr(pipeline, name, module)
        other.__dict__["_pipeline"] = pipeline  # where `cached_property` keeps it
        return other

    def _encode_prompts(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        match pipeline_class(self.folder):
            case "StableDiffusionXLPipeline":
                states, _, pooled, _ = self._pipeline.encode_prompt(captions, do_classifier_free_guidance=False)
            case "StableDiffusion3Pipeline":
                states, _, pooled, _ = self._pipeline.encode_prompt(
                    captions, None, None, do_classifier_free_guidance=False, max_sequence_length=self.max_tokens
                )
            case _:
                states, pooled, _ = self._pipeline.encode_prompt(captions, max_sequence_length=self.max_tokens)
        return states, pooled


def load_prompt_encoder(source: str, *, max_tokens: int, device: str) -> TextEncoder:
    """The text encoder of `latents.text_encoder`: one of its own, or all of a pipeline that has several.

    See `load_text_encoder` for arguments and errors.
    """
    folder = "" if source == "minilm" else resolve_checkpoint_pipeline(source)
    in_pipeline = bool(folder) and (Path(folder, MODEL_INDEX).is_file() or is_hub_pipeline(folder))
    if in_pipeline and pipeline_class(folder) in TEXT_PARTS:
        return load_pipeline_text_encoder(folder, max_tokens=max_tokens, device=device)
    return load_text_encoder(source, max_tokens=max_tokens, device=device)


def load_pipeline_text_encoder(source: str, *, max_tokens: int, device: str) -> PipelineTextEncoder:
    """The text encoders of a pipeline of one of the classes in `TEXT_PARTS`.

    Raises:
        ModelError: A part is missing.
        ConfigError: Its CLIP has another length than max_tokens.
    """
    kind = pipeline_class(source)
    encoders = TEXT_PARTS[kind]
    parts = [*encoders, *(name.replace("text_encoder", "tokenizer") for name in encoders)]
    folder = local_folder(source, tuple(parts))
    if kind == "StableDiffusionXLPipeline":
        length = int(read_json(folder / "tokenizer" / "tokenizer_config.json").get("model_max_length", 77))
        if max_tokens != length:
            raise ConfigError(f"latents.max_tokens={max_tokens}, but {source} always takes {length}; set it to that")
    configs = [read_json(folder / name / "config.json") for name in encoders]
    key = key_of(_hash_parts(folder, parts), max_tokens, kind)
    return PipelineTextEncoder(
        model=None, tokenizer=None, key=key, width=_width(configs), max_tokens=max_tokens, masked=False,
        folder=folder, device=device,
    )  # fmt: skip


def pack_states(states: Tensor, pooled: Tensor) -> Tensor:
    """`(n, rows, width)` of token states `(n, tokens, width)` and pooled states `(n, pooled width)`."""
    width = states.shape[-1]
    filled = torch.nn.functional.pad(pooled, (0, -pooled.shape[-1] % width))
    return torch.cat([filled.view(len(states), -1, width), states], dim=1)


def unpack_states(packed: Tensor, pooled_width: int) -> tuple[Tensor, Tensor]:
    """Token states and pooled states; the inverse of `pack_states`."""
    num_rows = -(-pooled_width // packed.shape[-1])
    return packed[:, num_rows:], packed[:, :num_rows].flatten(1)[:, :pooled_width]


def _width(configs: Sequence[Any]) -> int:
    """Width of the token states: of T5's, or of both CLIPs' side by side."""
    widths = [int(config.get("d_model") or config["hidden_size"]) for config in configs]
    return widths[-1] if "d_model" in configs[-1] else sum(widths)


def _hash_parts(folder: Path, parts: Sequence[str]) -> str:
    """Hash of the files of these parts that decide the states: weights, vocabularies and settings."""
    digest = hashlib.sha256()
    for part in parts:
        for path in sorted((folder / part).glob("*")):
            digest.update(path.name.encode())
            if path.name == "config.json":
                settings = read_json(path)
                kept = {name: value for name, value in settings.items()
                        if name[0] != "_" and name not in METADATA_FIELDS}  # fmt: skip
                digest.update(key_of(kept).encode())
                continue
            with path.open("rb") as stream:
                while block := stream.read(HASH_BLOCK):
                    digest.update(block)
    return digest.hexdigest()
