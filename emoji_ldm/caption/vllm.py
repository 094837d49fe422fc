"""The vLLM engine: a Qwen2.5-VL through vLLM's offline `LLM`, with the same prompt and pixels as `qwen.py`.

Why not `ray.data.llm`: its processor is one pass over a dataset (Ray 2.60, `ray/llm/_internal/batch`). A caption that
fails validation would need a second pass, whose actor pool loads the model again. Rows leave a batch in the order in
which they finish, so a shard to commit is complete only behind a barrier. And `should_continue_on_error` covers the
engine stage alone: an image that fails before it ends the job.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from emoji_ldm.caption.engine_protocol import TOP_K, CaptionRequest, EngineAnswer, EngineLostError
from emoji_ldm.caption.qwen import chat_text, load_processor, on_white, visual_budget
from emoji_ldm.config import CaptionConfig
from emoji_ldm.errors import ModelError

# vLLM needs cache memory for at least one request of the greatest length, so the limit is kept low. Instruction,
# example, a long title and 64 visual tokens take half of it.
PROMPT_TOKENS = 1024
GPU_SHARE = 0.9  # of the GPU memory of a worker, vLLM's default


class VllmBatch(NamedTuple):
    """The arguments of one `LLM.generate` call."""

    prompts: list[dict[str, Any]]
    sampling: list[Any]


class VllmEngine:
    """A loaded model; vLLM itself keeps `caption.batch_size` requests running (continuous batching)."""

    batch_size: int | None = None
    can_resample = True

    def __init__(self, config: CaptionConfig) -> None:
        """Load the model on this process's GPUs; ModelError if that cannot be done."""
        # vLLM takes long to import and may initialise CUDA, so only the worker that runs it imports it.
        import vllm
        from vllm.v1.engine.exceptions import EngineDeadError

        self._vllm, self._dead = vllm, EngineDeadError
        self.size_px, self.max_new_tokens = config.size_px, config.max_new_tokens
        self.processor = load_processor(config)
        try:
            self.model = vllm.LLM(**engine_options(config))
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"vLLM cannot load caption.model={config.model!r}: {reason}") from None

    def prepare(self, requests: Sequence[CaptionRequest]) -> VllmBatch:
        """Prompts with their images on white squares, and the sampling parameters of each request."""
        # vLLM runs the image processor itself, so it gets images, not tensors.
        prompts = [
            {
                "prompt": chat_text(self.processor, request),
                "multi_modal_data": {"image": on_white(request.input.image, self.size_px)},
            }
            for request in requests
        ]
        return VllmBatch(prompts, [self._sampling(request) for request in requests])

    def answer(self, prepared: VllmBatch) -> list[EngineAnswer]:
        """Answer all requests in one `generate` call, which returns them in the order of the prompts."""
        try:
            outputs = self.model.generate(prepared.prompts, prepared.sampling, use_tqdm=False)
        except self._dead as error:
            raise EngineLostError(str(error)) from None
        return [_answer(output.outputs[0]) for output in outputs]

    def _sampling(self, request: CaptionRequest) -> Any:
        # The values are those of `qwen.py`, so that the two engines write comparable captions. vLLM ignores `top_k` and
        # the seed at temperature 0.
        return self._vllm.SamplingParams(
            temperature=request.temperature, seed=request.seed, top_k=TOP_K, top_p=1.0, repetition_penalty=1.0,
            max_tokens=self.max_new_tokens,
        )  # fmt: skip


def engine_options(config: CaptionConfig) -> dict[str, Any]:
    """Arguments of `vllm.LLM`."""
    # A fraction of a GPU gives 0 here: the worker shares a GPU with others, and only its memory is limited below.
    num_gpus = int(config.gpus_per_worker)
    parallel = {"tensor_parallel_size": num_gpus, "distributed_executor_backend": "mp"} if num_gpus > 1 else {}
    return {
        "model": config.model, "dtype": "bfloat16", "max_num_seqs": config.batch_size,
        "max_model_len": PROMPT_TOKENS + config.max_new_tokens, "limit_mm_per_prompt": {"image": 1, "video": 0},
        "mm_processor_kwargs": visual_budget(config.size_px),
        "gpu_memory_utilization": GPU_SHARE * min(1.0, config.gpus_per_worker), **parallel,
    }  # fmt: skip


def _answer(output: Any) -> EngineAnswer:
    # `stop` is an end token and `length` the limit. Anything else, such as an abort, means that the text is not what
    # the model would have written.
    if output.finish_reason not in ("stop", "length"):
        return EngineAnswer("", error=f"vLLM ended the answer early: {output.finish_reason}")
    return EngineAnswer(output.text, finished=output.finish_reason == "stop")
