"""A content hash of model weights, independent of the file or hub they came from."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from emoji_ldm.config import key_of

# `dtype` is here although it matters: the hash of each tensor has it already.
METADATA_FIELDS = {"architectures", "dtype", "torch_dtype", "transformers_version"}


def hash_weights(model: Any) -> str:
    """Hash of a model's configuration and of every tensor (name, type, shape, bytes): 16 hex digits.

    Hashing tensors rather than files gives a model the same key before and after it was saved, sharded or moved into a
    pipeline folder.
    """
    digest = hashlib.sha256()
    # The names are sorted, as the order of a state dict is that in which the modules were created.
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # The tensor is viewed as bytes, since numpy has no bfloat16.
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    config = model.config if isinstance(model.config, dict) else model.config.to_dict()
    # Fields that start with _ or are in METADATA_FIELDS record how a file was made, not what the model computes.
    settings = {
        name: value for name, value in config.items() if not name.startswith("_") and name not in METADATA_FIELDS
    }
    return key_of(digest.hexdigest(), settings)
