"""The caption engines by their names: `check_engine` without loading anything, `load_engine` for use.

Engines are imported when they are asked for, since two of them need torch, transformers or vLLM.
"""

from __future__ import annotations

import importlib.util

from emoji_ldm.caption.engine_protocol import CaptionEngine
from emoji_ldm.config import CaptionConfig
from emoji_ldm.errors import ConfigError, ModelError


def check_engine(config: CaptionConfig) -> None:
    """Check, without loading weights, that the engine can run.

    Raises:
        ModelError: The model or the package is missing.
        ConfigError: The engine cannot use this number of GPUs.
    """
    if config.engine == "metadata":
        return
    if config.engine == "vllm":
        # Importing vLLM takes many seconds; finding it does not.
        if importlib.util.find_spec("vllm") is None:
            raise ModelError("caption.engine=vllm needs vLLM on every node: pip install 'emoji-ldm[vllm]'")
        if not config.gpus_per_worker:
            raise ConfigError("caption.engine=vllm needs a GPU per worker; set caption.gpus_per_worker=1")
    # transformers would leave the further GPUs idle, which nobody asks for on purpose.
    elif config.gpus_per_worker > 1:
        raise ConfigError(
            f"caption.gpus_per_worker={config.gpus_per_worker:g}: qwen2.5-vl uses one GPU per worker; "
            "set caption.gpus_per_worker=1 and raise caption.num_workers, or use caption.engine=vllm"
        )
    # This imports torch and transformers, so it comes after the checks that need neither.
    from emoji_ldm.caption.qwen import check_model

    check_model(config.model)


def load_engine(config: CaptionConfig) -> CaptionEngine:
    """Load the engine; ModelError if its model is missing or of another kind."""
    if config.engine == "metadata":
        from emoji_ldm.caption.metadata import MetadataEngine

        return MetadataEngine()
    if config.engine == "vllm":
        from emoji_ldm.caption.vllm import VllmEngine

        return VllmEngine(config)
    from emoji_ldm.caption.qwen import QwenEngine

    return QwenEngine(config)
