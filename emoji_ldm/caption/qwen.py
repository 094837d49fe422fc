"""Captions by a Qwen2.5-VL of any size, from a folder or a hub id, on GPU or CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoConfig, AutoProcessor, Qwen2_5_VLForConditionalGeneration
from transformers.utils import logging

from emoji_ldm.caption.captioner import Caption, Subject
from emoji_ldm.caption.parse import parse
from emoji_ldm.caption.prompt import messages
from emoji_ldm.config import CaptionConfig
from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.records import ATTRIBUTES

MODEL_TYPE = "qwen2_5_vl"
REMEDY = (
    "set caption.model to the folder of a downloaded Qwen2.5-VL, or use caption.engine=metadata, which needs no model"
)


class QwenCaptioner:
    """A loaded model; greedy, so that the same picture and title give the same caption."""

    def __init__(self, config: CaptionConfig) -> None:
        """Load the model: bfloat16 on the GPU if the config asks for one, else float32 on the CPU.

        Raises:
            ModelError: Model or processor cannot be loaded.
            ConfigError: `size_px` is no multiple of the model's visual cell (28 px).
        """
        check_model(config.model)
        logging.disable_progress_bar()
        device, dtype = ("cuda", torch.bfloat16) if config.num_gpus else ("cpu", torch.float32)
        try:
            self.processor: Any = AutoProcessor.from_pretrained(config.model)
            model = Qwen2_5_VLForConditionalGeneration.from_pretrained(config.model, dtype=dtype)
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise ModelError(_unloadable(config.model, error)) from None
        self.model: Any = model.eval().requires_grad_(False).to(device)
        self.size_px, self.max_new_tokens = config.size_px, config.max_new_tokens
        _check_size(self.processor.image_processor, config.size_px)

    @torch.inference_mode()
    def __call__(self, subjects: Sequence[Subject]) -> list[Caption]:
        """One caption per subject, all in one `generate` call."""
        inputs = self.inputs(subjects).to(self.model.device)
        # The model's own generation settings may sample; without sampling its temperature must go too.
        written = self.model.generate(
            **inputs, max_new_tokens=self.max_new_tokens, do_sample=False, temperature=None, top_p=None, top_k=None
        )[:, inputs.input_ids.shape[1] :]
        texts = self.processor.batch_decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        ends = torch.tensor(_end_ids(self.model), device=written.device)
        ended = torch.isin(written, ends).any(dim=1).tolist()
        return [judge(text, ended=whole) for text, whole in zip(texts, ended, strict=True)]

    def inputs(self, subjects: Sequence[Subject]) -> Any:
        """Model input of a batch: left-padded prompts and every picture on white in `size_px` squares."""
        prompts = [
            self.processor.apply_chat_template(messages(subject.title), add_generation_prompt=True, tokenize=False)
            for subject in subjects
        ]
        # Both limits at the square's own area: by default the processor enlarges an emoji, to 128 tokens or more.
        area = self.size_px**2
        return self.processor(
            text=prompts, images=[on_white(subject.image, self.size_px) for subject in subjects], padding=True,
            padding_side="left", return_tensors="pt", size={"shortest_edge": area, "longest_edge": area},
        )  # fmt: skip


def judge(text: str, *, ended: bool) -> Caption:
    """The caption that a model's answer is, or what is wrong with it."""
    sentence = " ".join(text.split()).strip("\"'`* ")
    if not sentence:
        return Caption("", reason="empty answer")
    if not ended:
        return Caption(sentence, reason="truncated: no end within caption.max_new_tokens")
    attributes = parse(sentence)
    missing = [name for name in ATTRIBUTES if name not in attributes]
    if missing:
        return Caption(sentence, attributes, f"not in the asked form: {', '.join(missing)} missing")
    return Caption(sentence, attributes)


def on_white(image: Image.Image, size_px: int) -> Image.Image:
    """An RGB square with the RGBA picture centred on white."""
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
    if Path(source).is_dir() and not list(Path(source).glob("*.safetensors")):
        raise ModelError(f"caption.model={source!r} holds no *.safetensors weights; {REMEDY}")


def _check_size(image_processor: Any, size_px: int) -> None:
    cell = image_processor.patch_size * image_processor.merge_size
    if size_px % cell:
        raise ConfigError(f"caption.size_px={size_px} is no multiple of {cell}, the side of a visual token")


def _end_ids(model: Any) -> list[int]:
    ids = model.generation_config.eos_token_id
    return list(ids) if isinstance(ids, list) else [ids]


def _unloadable(source: str, error: Exception) -> str:
    return f"cannot load caption.model={source!r}: {' '.join(str(error).split())[:200]}; {REMEDY}"
