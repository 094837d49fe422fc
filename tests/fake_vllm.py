"""The part of vLLM 0.29's offline interface that captions use, on a small model of transformers.

It refuses what vLLM refuses: unknown arguments, a list of sampling parameters of another length, and prompts with other
keys or without a placeholder for their image.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration


class EngineDeadError(Exception):
    """The exception of `vllm.v1.engine.exceptions`."""


@dataclass(kw_only=True)
class SamplingParams:
    """The parameters that captions set, with vLLM's defaults."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None
    max_tokens: int | None = 16


class LLM:
    """Answers prompts one by one. Greedy decoding only, since vLLM draws other random numbers than transformers."""

    def __init__(
        self, model: str, *, dtype: str = "auto", tensor_parallel_size: int = 1, gpu_memory_utilization: float = 0.92,
        mm_processor_kwargs: dict[str, Any] | None = None, max_num_seqs: int, max_model_len: int,
        limit_mm_per_prompt: dict[str, int], distributed_executor_backend: str | None = None,
    ) -> None:  # fmt: skip
        assert (dtype, tensor_parallel_size, distributed_executor_backend) == ("bfloat16", 1, None)
        assert 0 < gpu_memory_utilization <= 1
        assert limit_mm_per_prompt["image"] == 1
        self.budget, self.longest, self.model_max = mm_processor_kwargs or {}, max_num_seqs, max_model_len
        self.processor = AutoProcessor.from_pretrained(model)
        self.model = Qwen2_5_VLForConditionalGeneration.from_pretrained(model).eval()
        self.calls: list[int] = []
        self.dead = False

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[dict[str, Any]], sampling_params: Sequence[SamplingParams], *, use_tqdm: bool = True
    ) -> list[Any]:
        """One RequestOutput per prompt, in order."""
        if self.dead:
            raise EngineDeadError("EngineCore encountered an issue. See stack trace (above) for the root cause.")
        if len(prompts) != len(sampling_params):
            raise ValueError("The lengths of prompts and params must be the same.")
        self.calls.append(len(prompts))
        return [self._one(prompt, params) for prompt, params in zip(prompts, sampling_params, strict=True)]

    def _one(self, prompt: dict[str, Any], params: SamplingParams) -> Any:
        assert set(prompt) == {"prompt", "multi_modal_data"}
        assert prompt["prompt"].count("<|image_pad|>") == 1
        image = prompt["multi_modal_data"]["image"]
        inputs = self.processor(text=[prompt["prompt"]], images=[image], return_tensors="pt", **self.budget)
        length = inputs.input_ids.shape[1]
        if length + params.max_tokens > self.model_max:
            raise ValueError(f"the prompt of {length} tokens is longer than the model's {self.model_max}")
        written = self.model.generate(
            **inputs, max_new_tokens=params.max_tokens, do_sample=False, temperature=None, top_p=None, top_k=None,
            repetition_penalty=params.repetition_penalty,
        )[0, length:]  # fmt: skip
        ended = bool(torch.isin(written, torch.tensor(self.model.generation_config.eos_token_id)).any())
        text = self.processor.decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        output = types.SimpleNamespace(text=text, finish_reason="stop" if ended else "length")
        return types.SimpleNamespace(outputs=[output], finished=True)


def install(monkeypatch: Any) -> None:
    """Let `import vllm` import this module's classes."""
    modules = {name: types.ModuleType(name) for name in ("vllm", "vllm.v1", "vllm.v1.engine",
                                                         "vllm.v1.engine.exceptions")}  # fmt: skip
    modules["vllm"].LLM, modules["vllm"].SamplingParams = LLM, SamplingParams
    modules["vllm.v1.engine.exceptions"].EngineDeadError = EngineDeadError
    for name, module in modules.items():
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
