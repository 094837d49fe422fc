"""Textual inversion (arXiv 2208.01618): new words for a frozen model, of which only their embeddings are learned.

A word stands for `num_vectors` embeddings, so the tokenizer gets that many new tokens: `<blob>`, `<blob>_1` and so on.
Where a prompt has the word, it is replaced by all of them (`latents.text_encoder.expand_words`), as diffusers does it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emoji_ldm.config import TextualInversionOptions
from emoji_ldm.errors import ConfigError

LEARNED_FILE = "learned_embeds.safetensors"  # the name that diffusers' loader looks for


class LearnedEmbedding(nn.Module):
    """An embedding whose last words are learned, and whose others are frozen."""

    def __init__(self, base: Any, first_id: int, learned: Tensor) -> None:
        """Take the frozen embedding, the first id of the learned words, and their first values `(n, width)`."""
        super().__init__()
        self.base, self.first_id, self.learned = base, first_id, nn.Parameter(learned)
        base.requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings `(*ids.shape, width)`."""
        is_learned = ids >= self.first_id
        known = self.base(torch.where(is_learned, 0, ids))
        new = self.learned[torch.where(is_learned, ids - self.first_id, 0)]
        return torch.where(is_learned.unsqueeze(-1), new.to(known.dtype), known)


def add_words(tokenizer: Any, options: TextualInversionOptions) -> None:
    """Add the tokens of a new word to a tokenizer, in place.

    Raises:
        ConfigError: The word exists already.
    """
    words = token_names(options)
    if tokenizer.add_tokens(words) != len(words):
        raise ConfigError(
            f"train.textual_inversion.token={options.token!r} is a word that the text encoder knows; give a new one"
        )


def token_names(options: TextualInversionOptions) -> list[str]:
    """The tokens that a word stands for."""
    return [options.token, *(f"{options.token}_{number}" for number in range(1, options.num_vectors))]


def learn_words(encoder: Any, tokenizer: Any, options: TextualInversionOptions) -> None:
    """Freeze a text encoder but for the embeddings of the new word, in place; `tokenizer` knows it already.

    Raises:
        ConfigError: The word to begin with has no token.
    """
    encoder.requires_grad_(False)
    base = encoder.get_input_embeddings()
    # Special tokens say where a text begins and ends, and mean nothing by themselves.
    ids = tokenizer(options.init, add_special_tokens=False).input_ids
    if not ids:
        raise ConfigError(f"train.textual_inversion.init={options.init!r} has no token; give a word such as 'face'")
    # Several vectors begin with the tokens of several words in turn.
    first = base.weight.detach()[[ids[number % len(ids)] for number in range(options.num_vectors)]].clone()
    first_id = tokenizer.convert_tokens_to_ids(options.token)
    encoder.set_input_embeddings(LearnedEmbedding(base, first_id, first))


def settle_words(encoder: Any, tokenizer: Any) -> Tensor:
    """Turn the learned embedding into a stock one that has the new words, in place; returns them, `(n, width)`."""
    embedding: LearnedEmbedding = encoder.get_input_embeddings()
    learned = embedding.learned.detach()
    encoder.set_input_embeddings(embedding.base)
    encoder.resize_token_embeddings(max(len(tokenizer), embedding.base.num_embeddings), mean_resizing=False)
    with torch.no_grad():
        weight = encoder.get_input_embeddings().weight
        weight[embedding.first_id : embedding.first_id + len(learned)] = learned
    return learned


def save_words(options: TextualInversionOptions, learned: Tensor, folder: Path) -> None:
    """Write `learned_embeds.safetensors`, which `pipeline.load_textual_inversion(folder)` opens."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({options.token: learned.contiguous().cpu()}, folder / LEARNED_FILE)
