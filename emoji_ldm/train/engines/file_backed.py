"""State of an optimiser in files, for trainings whose moments and averages do not fit into memory.

The tensors are mapped from files on a local disk. The kernel writes to the disk what memory cannot hold and reads it
again when it is needed, so nothing else changes: updates, checkpoints and bits are the same.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from emoji_ldm.model.ema import WeightAverages
from emoji_ldm.train.engines.training_engine import TrainingEngine
from emoji_ldm.train.optimizers.optimizer_state import OptimizerState


def move_state_to_files(engine: TrainingEngine, averages: WeightAverages, folder: str) -> None:
    """Put moments and averages, which lie in host memory, into files in the folder; these vanish with the process."""
    keys = engine.optimizer_state_keys()
    # This makes the state, which optimisers would only do at their first step.
    OptimizerState(engine.optimizer, keys)
    for key in keys:
        state = engine.optimizer.state[key]
        for kind, value in state.items():
            # The count of steps is no state of the weights.
            if kind != "step" and isinstance(value, Tensor) and value.numel():
                state[kind] = file_backed(value, folder)
    for tensors in averages.tensors.values():
        tensors[:] = [file_backed(tensor, folder) if tensor.numel() else tensor for tensor in tensors]


def file_backed(tensor: Tensor, folder: str) -> Tensor:
    """A copy of the tensor whose memory is a file in the folder."""
    number, name = tempfile.mkstemp(prefix="emoji-ldm-", dir=folder)
    os.close(number)
    found = torch.from_file(name, shared=True, size=tensor.numel(), dtype=tensor.dtype).view(tensor.shape)
    # The mapping keeps the file alive. Without a name it cannot be left behind, however the process ends.
    Path(name).unlink()
    return found.copy_(tensor)
