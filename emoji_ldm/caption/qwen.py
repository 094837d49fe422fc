"""The transformers engine: a Qwen2.5-VL of any size, from a folder or a hub id, on GPU or CPU."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from transformers import AutoConfig, AutoProcessor, LogitsProcessor, Qwen2_5_VLForConditionalGeneration
from transformers.utils import logging

from emoji_ldm.caption.engine_protocol import (
    TOP_K,
    CaptionRequest,
    EngineAnswer,
    EngineLostError,
    EngineOutOfMemoryError,
)
from emoji_ldm.caption.prompt import chat_messages
from emoji_ldm.config import CaptionConfig
from emoji_ldm.errors import ConfigError, ModelError

MODEL_TYPE = "qwen2_5_vl"
REMEDY = (
    "set caption.model to the folder of a downloaded Qwen2.5-VL, or use caption.engine=metadata, which needs no model"
)


class QwenBatch(NamedTuple):
    """Model inputs of a batch, and its sampling."""

    inputs: Any
    sampling: GumbelPerRow


class QwenEngine:
    """A loaded model; an answer depends on image, title and seed alone, not on the rest of the batch."""

    can_resample = True

    def __init__(self, config: CaptionConfig) -> None:
        """Load the model: bfloat16 on the GPU if the config asks for one, else float32 on the CPU.

        Raises:
            ModelError: Model or processor cannot be loaded.
            ConfigError: `size_px` is no multiple of the model's visual cell (28 px).
        """
        self.batch_size: int | None = config.batch_size
        self.size_px, self.max_new_tokens = config.size_px, config.max_new_tokens
        self.processor: Any = load_processor(config)
        # Fast tokenizers are not thread-safe, and `prepare` uses the processor's in a thread of its own while `answer`
        # decodes. So decoding has a copy.
        self._decoder = copy.deepcopy(self.processor.tokenizer)
        # Most CPUs have no fast bfloat16 arithmetic.
        device, dtype = ("cuda", torch.bfloat16) if config.gpus_per_worker else ("cpu", torch.float32)
        try:
            model = Qwen2_5_VLForConditionalGeneration.from_pretrained(config.model, dtype=dtype)
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise ModelError(_unloadable(config.model, error)) from None
        self.model: Any = model.eval().requires_grad_(False).to(device)

    def prepare(self, requests: Sequence[CaptionRequest]) -> QwenBatch:
        """Left-padded prompts, and images on white squares of `size_px`, on the CPU."""
        # Generation appends tokens at the end of each row, so prompts of different lengths have to be padded on the
        # left.
        inputs = self.processor(
            text=[chat_text(self.processor, request) for request in requests],
            images=[on_white(request.input.image, self.size_px) for request in requests],
            padding=True, padding_side="left", return_tensors="pt", **visual_budget(self.size_px),
        )  # fmt: skip
        return QwenBatch(inputs, GumbelPerRow(requests))

    @torch.inference_mode()
    def answer(self, prepared: QwenBatch) -> list[EngineAnswer]:
        """Answer all requests in one `generate` call."""
        try:
            inputs = prepared.inputs.to(self.model.device)
            # A model's generation_config.json may set any of these. Both engines override it with the same values, so
            # that they write comparable captions. `do_sample` is false because GumbelPerRow does the sampling.
            written = self.model.generate(
                **inputs, max_new_tokens=self.max_new_tokens, do_sample=False, temperature=None, top_p=None,
                top_k=None, repetition_penalty=1.0, logits_processor=[prepared.sampling],
            )[:, inputs.input_ids.shape[1] :].cpu()  # fmt: skip
        except torch.OutOfMemoryError as error:
            # The blocks that were freed are fragmented. Returning them to the driver lets the halved batch fit.
            torch.cuda.empty_cache()
            raise EngineOutOfMemoryError(str(error)) from None
        except RuntimeError as error:
            # Other RuntimeErrors may be due to one image, so they go to fault isolation.
            if _is_dead(error):
                raise EngineLostError(str(error)) from None
            raise
        # An answer is finished if the model wrote an end token before the length limit.
        texts = self._decoder.batch_decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        ended = torch.isin(written, torch.tensor(_end_ids(self.model))).any(dim=1).tolist()
        return [EngineAnswer(text, finished=whole) for text, whole in zip(texts, ended, strict=True)]


class GumbelPerRow(LogitsProcessor):  # type: ignore[misc]
    """Sampling with a temperature and a seed per row, inside a greedy `generate`.

    `generate` takes one temperature and one random stream for the whole batch, but a retry in it must not change its
    neighbours. The index of the largest `score / temperature + Gumbel noise` is a sample of the softmax (Gumbel-max
    trick, Maddison et al. 2014), so greedy decoding of noisy scores samples each row by its own stream. Rows of
    temperature 0 stay greedy in the same batch.
    """

    def __init__(self, requests: Sequence[CaptionRequest]) -> None:
        """One random stream per request, on the CPU, so that all devices draw the same noise."""
        self.temperatures = [request.temperature for request in requests]
        self.streams = [torch.Generator().manual_seed(request.seed) for request in requests]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Add noise to the `TOP_K` largest scores `(rows, vocabulary)` of each sampled row; the others become -inf."""
        for row, (temperature, stream) in enumerate(zip(self.temperatures, self.streams, strict=True)):
            if temperature:
                largest, places = scores[row].float().topk(min(TOP_K, scores.shape[1]))
                # The negative logarithm of an exponential variable has the Gumbel distribution. Scores of the kept
                # tokens are noisy, all others are ruled out.
                noise = -torch.empty(len(largest)).exponential_(generator=stream).log()
                drawn = largest / temperature + noise.to(largest.device)
                scores[row] = torch.full_like(scores[row], -torch.inf).scatter(0, places, drawn.to(scores.dtype))
        return scores


def load_processor(config: CaptionConfig) -> Any:
    """The model's processor; ModelError if it cannot be loaded, ConfigError if `size_px` does not suit it."""
    check_model(config.model)
    logging.disable_progress_bar()
    try:
        processor = AutoProcessor.from_pretrained(config.model)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise ModelError(_unloadable(config.model, error)) from None
    # A visual token covers a cell of patches; other sizes would be resized by the processor without notice.
    cell = processor.image_processor.patch_size * processor.image_processor.merge_size
    if config.size_px % cell:
        raise ConfigError(f"caption.size_px={config.size_px} is no multiple of {cell}, the side of a visual token")
    return processor


def chat_text(processor: Any, request: CaptionRequest) -> str:
    """The prompt as text, with one placeholder for the image."""
    turns = chat_messages(request.input.title)
    text: str = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    return text


def visual_budget(size_px: int) -> dict[str, Any]:
    """Processor arguments that keep the size of a square; the default enlarges small images to 128 tokens or more."""
    return {"size": {"shortest_edge": size_px**2, "longest_edge": size_px**2}}


def on_white(image: Image.Image, size_px: int) -> Image.Image:
    """An RGB square with the RGBA image centred on white."""
    scale = size_px / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    square = Image.new("RGBA", (size_px, size_px), "white")
    scaled = image.resize((width, height), Image.Resampling.LANCZOS)
    square.alpha_composite(scaled, ((size_px - width) // 2, (size_px - height) // 2))
    return square.convert("RGB")


def check_model(source: str) -> None:
    """Raise ModelError if no Qwen2.5-VL with weights can be found there; loads no weights."""
    try:
        kind = AutoConfig.from_pretrained(source).model_type
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(_unloadable(source, error)) from None
    if kind != MODEL_TYPE:
        raise ModelError(f"caption.model={source!r} is a {kind}, not a Qwen2.5-VL; {REMEDY}")
    # A folder may hold the configuration without the weights, such as an interrupted download; for a hub id
    # transformers downloads them.
    if Path(source).is_dir() and not list(Path(source).glob("*.safetensors")):
        raise ModelError(f"caption.model={source!r} holds no *.safetensors weights; {REMEDY}")


def _is_dead(error: RuntimeError) -> bool:
    """After an error on the device its context stays broken until the process ends."""
    text = str(error)
    return any(mark in text for mark in ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "device-side assert"))


def _end_ids(model: Any) -> list[int]:
    ids = model.generation_config.eos_token_id
    return list(ids) if isinstance(ids, list) else [ids]


def _unloadable(source: str, error: Exception) -> str:
    return f"cannot load caption.model={source!r}: {' '.join(str(error).split())[:200]}; {REMEDY}"
