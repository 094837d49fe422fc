"""Text encoders: captions -> token states, the sequence that the U-Net attends to.

Padding states are zero vectors, and the U-Net gets no mask. Cross-attention in diffusers has no bias on keys and
values, so a zero state has key 0 and value 0: it adds nothing but a constant to the softmax denominator, the same in
training and in sampling. So only real tokens need to be stored, and padding is added on the device.

A stock diffusers `StableDiffusionPipeline` does the same with the encoders that this package saves: the classes of
`zero_padded` zero the padding themselves, `config.use_attention_mask` makes the pipeline pass the mask, and the
tokenizer's `model_max_length` is the padded length. A pipeline made elsewhere was trained with its own padding tokens:
all its positions count as real.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertModel,
    CLIPTextModel,
    PreTrainedModel,  # noqa: F401  diffusers looks for this name here when it opens checkpoints that name this module
    T5EncoderModel,
)
from transformers.utils import logging

from emoji_ldm.config import key_of
from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.latents.minilm import minilm_folder
from emoji_ldm.latents.pipeline_source import is_hub_pipeline, local_folder, resolve_checkpoint_pipeline
from emoji_ldm.latents.transformers_compat import change_class
from emoji_ldm.latents.weights_hash import hash_weights
from emoji_ldm.latents.zero_padded import ZeroPaddedBert, ZeroPaddedClip, ZeroPaddedT5

LOAD_ERRORS = (OSError, ValueError, RuntimeError, KeyError, ImportError)

TokenStates = NDArray[np.float32]

# Keys are the `model_type` of a config.json: a CLIP's text tower has "clip_text_model" if it was saved by itself, and
# "clip" if it was saved with the vision tower.
ZERO_PADDED_CLASSES: dict[str, Any] = {
    "bert": ZeroPaddedBert,
    "clip": ZeroPaddedClip,
    "clip_text_model": ZeroPaddedClip,
    "t5": ZeroPaddedT5,
}
STOCK_CLASSES: dict[str, Any] = {
    "bert": BertModel, "clip": CLIPTextModel, "clip_text_model": CLIPTextModel, "t5": T5EncoderModel,
}  # fmt: skip


def pad(states: Sequence[Any], max_tokens: int) -> Tensor:
    """States `(tokens, width)` as one float32 `(N, max_tokens, width)`, zero-padded; longer ones are truncated."""
    padded = torch.zeros(len(states), max_tokens, states[0].shape[-1])
    for row, state in zip(padded.numpy(), states, strict=True):
        truncated = state[:max_tokens]
        row[: len(truncated)] = truncated
    return padded


def expand_words(tokenizer: Any, text: str) -> str:
    """The text with each learned word replaced by all of its tokens, as diffusers' pipelines do it with prompts."""
    # Words with several vectors have tokens `word`, `word_1` and so on, see `emoji_ldm.model.textual_inversion`.
    added = tokenizer.added_tokens_encoder
    for word in [word for word in added if f"{word}_1" in added and word in text]:
        number, tokens = 1, [word]
        while f"{word}_{number}" in added:
            tokens.append(f"{word}_{number}")
            number += 1
        text = text.replace(word, " ".join(tokens))
    return text


@dataclass(frozen=True)
class TextEncoder:
    """A frozen text encoder with its tokenizer."""

    model: Any  # transformers model, evaluation mode
    tokenizer: Any
    key: str  # hash of weights, vocabulary and tokenisation: equal key, equal states
    width: int  # width of a token's state
    max_tokens: int  # longest caption, special tokens included
    masked: bool  # padding is masked and zero; else every position up to max_tokens counts as real

    @torch.inference_mode()
    def encode(self, captions: Sequence[str]) -> list[TokenStates]:
        """States float32 `(tokens, width)` per caption, without padding and at most max_tokens long."""
        if not captions:
            return []
        # Padding goes to the right, so that the real tokens come first and a count is enough to cut it off. A pipeline
        # made elsewhere (`masked` is false) was trained to attend to its padding tokens, so these are kept.
        inputs = self.tokenizer(
            [expand_words(self.tokenizer, caption) for caption in captions],
            padding=True if self.masked else "max_length", truncation=True, max_length=self.max_tokens,
            padding_side="right", return_tensors="pt",
        ).to(self.model.device)  # fmt: skip
        mask = inputs.attention_mask if self.masked else None
        states = self.model(input_ids=inputs.input_ids, attention_mask=mask).last_hidden_state.float().cpu().numpy()
        counts = inputs.attention_mask.sum(dim=1).tolist() if self.masked else [self.max_tokens] * len(captions)
        # A slice alone would keep the padded states of the whole batch in memory.
        return [state[:count].copy() for state, count in zip(states, counts, strict=True)]

    pad = staticmethod(pad)

    def parts(self) -> dict[str, Any]:
        """`{folder in a pipeline: model}` of the encoder's models, on their device."""
        return {"text_encoder": self.model}

    def with_parts(self, parts: Mapping[str, Any], key: str) -> TextEncoder:
        """The encoder with other models in the place of some of its own, and a key for them."""
        return replace(self, model=parts["text_encoder"], key=key)


def load_text_encoder(source: str, *, max_tokens: int, device: str) -> TextEncoder:
    """Load a text encoder.

    Args:
        source: `minilm` (the packaged all-MiniLM-L6-v2), or a folder or hub id: of an encoder with its
            tokenizer, or of a pipeline with `text_encoder/` and `tokenizer/`.
        max_tokens: Longest caption in tokens, special tokens included.
        device: Torch device.

    Raises:
        ModelError: Model or tokenizer is missing, damaged or of an unknown kind.
        ConfigError: The model has fewer positions than max_tokens.
    """
    folder = str(minilm_folder()) if source == "minilm" else resolve_checkpoint_pipeline(source)
    # transformers cannot open a pipeline by its hub id, so the two folders of the text encoder are downloaded.
    if is_hub_pipeline(folder):
        folder = str(local_folder(folder, ("text_encoder", "tokenizer")))
    # transformers would show a bar for each weight file, between the lines of the command's own progress.
    logging.disable_progress_bar()
    in_pipeline = Path(folder, "text_encoder").is_dir()
    tokenizer = _load_tokenizer(str(Path(folder, "tokenizer")) if in_pipeline else folder, source)
    model = _load_model(str(Path(folder, "text_encoder")) if in_pipeline else folder, source, in_pipeline=in_pipeline)
    _check_positions(model, max_tokens, source)
    masked = bool(model.config.use_attention_mask)
    # A pipeline that is saved with this tokenizer pads its prompts to that length, as training does.
    tokenizer.model_max_length = max_tokens
    # Vocabulary and length change the states although no weight changes, so they are part of the key.
    vocabulary = hashlib.sha256(repr(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()
    key = key_of(hash_weights(model), vocabulary, max_tokens, masked)
    model = model.eval().requires_grad_(False).to(device)
    return TextEncoder(model, tokenizer, key, int(model.config.hidden_size), max_tokens, masked)


def _load_model(folder: str, source: str, *, in_pipeline: bool) -> Any:
    """The model; in a pipeline made elsewhere it keeps that pipeline's treatment of padding."""
    try:
        config = AutoConfig.from_pretrained(folder)
        # Zeroing the padding of a pipeline that learnt to read it would change what its U-Net sees.
        zero_padded = not in_pipeline or getattr(config, "use_attention_mask", False)
        if zero_padded and config.model_type not in ZERO_PADDED_CLASSES:
            raise ValueError(f"model type {config.model_type} is none of {', '.join(ZERO_PADDED_CLASSES)}")
        # The stock class loads, and the model changes its class afterwards: see `change_class`.
        model = _load_complete(STOCK_CLASSES.get(config.model_type, AutoModel), folder)
    except LOAD_ERRORS as error:
        raise ModelError(_unloadable("text encoder", source, error)) from None
    if zero_padded:
        change_class(model, ZERO_PADDED_CLASSES[config.model_type])
    model.config.use_attention_mask = bool(zero_padded)
    return model


def _load_complete(kind: Any, folder: str) -> Any:
    """The model; ValueError if the folder lacks weights, which transformers would silently initialise at random."""
    model, found = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, use_safetensors=True)
    # Many checkpoints come without the pooler, which reads the token states and changes none of them.
    missing = [name for name in found["missing_keys"] if "pooler" not in name]
    if missing:
        raise ValueError(f"its weights lack {missing[0]} and {len(missing) - 1} more")
    return model


def _load_tokenizer(folder: str, source: str) -> Any:
    """The tokenizer, with a padding token; `source` is named in errors."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        # If the vocabulary file is missing, transformers returns a tokenizer of special tokens without any error.
        if len(tokenizer) <= len(tokenizer.all_special_tokens):
            raise ValueError("its vocabulary is empty, the file is missing")
    except LOAD_ERRORS as error:
        raise ModelError(_unloadable("tokenizer", source, error)) from None
    # Some tokenizers have no padding token. Any would do where padding is masked; CLIP, too, pads with its end token.
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def _unloadable(part: str, source: str, error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return f"cannot load the {part} of {source!r}: {text}; give latents.text_encoder=minilm, a folder or a hub id"


def _check_positions(model: Any, max_tokens: int, source: str) -> None:
    # T5 has relative positions and no such limit.
    positions = getattr(model.config, "max_position_embeddings", None) or max_tokens
    if max_tokens > positions:
        raise ConfigError(f"latents.max_tokens={max_tokens} is more than the {positions} positions of {source!r}")
