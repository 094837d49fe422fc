"""DreamBooth on a tiny model: does it learn the subject, and does prior preservation keep the class?

A U-Net and a text encoder learn two classes of synthetic patterns from scratch. Then both learn one pattern under the
prompt `a zwx cat` from four images, once without and once with prior preservation (Ruiz et al., arXiv 2208.12242):
images of the class that the model generated before. Samples of `a cat` afterwards are compared with samples before: by
the kernel distance (KID, arXiv 1801.01401) of 192 latents each, and by the mean change of samples from the same noise.
The drift with prior preservation must be at most 0.7 of that without; the target is 0.5.
"""

from __future__ import annotations

import statistics
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from emoji_ldm.config import Config, load
from emoji_ldm.latents.cache import LatentSet
from emoji_ldm.latents.text_encoder import TextEncoder
from emoji_ldm.train.tasks.diffusion_task import DiffusionTask
from emoji_ldm.train.tasks.dreambooth import instance_class_halves
from emoji_ldm.train.tasks.pipeline_export import FrozenModels
from tests.tiny_pipelines import TOKENS, clip_tokenizer

CLASS, OTHER, SUBJECT = "a cat", "a dog", "a zwx cat"
SHAPE = (4, 8, 8)
NUM_SUBJECT, NUM_CLASS, NUM_DRAWN, DRAW_STEPS = 4, 64, 192, 10
FLOOR, TARGET = 0.7, 0.5


def run(*, quick: bool) -> dict[str, Any]:
    """Three seeds, or one."""
    torch.set_num_threads(1)
    found = [_measure(seed, base_steps=200 if quick else 400, steps=60 if quick else 120)
             for seed in range(1 if quick else 3)]  # fmt: skip
    figures = {name: round(statistics.median(each[name] for each in found), 4) for name in found[0]}
    ratio = figures["class_kid_with"] / figures["class_kid_without"]
    figures |= {"class_kid_ratio": round(ratio, 3), "num_seeds": len(found)}
    learned = figures["subject_loss_ratio_with"] < 1 and figures["subject_distance_ratio_with"] < 1
    return {"figures": figures, "floor": {"class_kid_ratio": FLOOR}, "target": {"class_kid_ratio": TARGET},
            "holds": ratio <= FLOOR and learned}  # fmt: skip


def _measure(seed: int, *, base_steps: int, steps: int) -> dict[str, float]:
    random = np.random.default_rng(seed)
    text = _text_encoder(seed)
    classes = np.concatenate([_bumps(random, 256), _stripes(random, 256)])
    base = _task(_config(seed, base_steps, lr=3e-3, batch_size=16), text, classes, [CLASS] * 256 + [OTHER] * 256)
    _train(base, base_steps)
    before = _draw(base, CLASS, range(NUM_DRAWN))
    prior = _draw(base, CLASS, range(10_000, 10_000 + NUM_CLASS)).numpy()
    subject = _subject(random)
    figures: dict[str, float] = {}
    for name, pictures in (("without", subject), ("with", np.concatenate([subject, prior]))):
        prompts = [SUBJECT] * NUM_SUBJECT + [CLASS] * (len(pictures) - NUM_SUBJECT)
        # Without prior preservation, a batch of half the size holds as many images of the subject.
        tuned = _task(_config(seed, steps, lr=5e-4, batch_size=8 if len(pictures) > NUM_SUBJECT else 4),
                      text, pictures, prompts)  # fmt: skip
        tuned.module.load_state_dict(base.module.state_dict())
        figures |= {f"{key}_{name}": value for key, value in _compare(base, tuned, before, subject, steps).items()}
    return figures


def _compare(
    base: DiffusionTask, tuned: DiffusionTask, before: Tensor, subject: np.ndarray, steps: int
) -> dict[str, float]:
    """Losses and samples before and after training `tuned`, which starts with the weights of `base`."""
    losses, distances = [_subject_loss(tuned)], [_distance(_draw(base, SUBJECT, range(32)), subject)]
    _train(tuned, steps)
    losses.append(_subject_loss(tuned))
    distances.append(_distance(_draw(tuned, SUBJECT, range(32)), subject))
    after = _draw(tuned, CLASS, range(NUM_DRAWN))
    fresh = _draw(tuned, CLASS, range(20_000, 20_000 + NUM_DRAWN))
    return {
        "subject_loss_ratio": losses[1] / losses[0],
        "subject_distance_ratio": distances[1] / distances[0],
        "class_kid": _kid(before, fresh),
        "class_change": float((after - before).square().mean().sqrt() / before.std()),
    }


def _config(seed: int, steps: int, *, lr: float, batch_size: int) -> Config:
    return load(None, [
        "train.block_out_channels=[16,32]", "train.layers_per_block=1", "train.num_heads=4",
        "train.validation_fraction=0",
        "train.caption_dropout=0", "train.train_text_encoder=true", "train.prediction_type=v_prediction",
        f"latents.max_tokens={TOKENS}", f"train.seed={seed}", f"train.steps={steps}", f"train.lr={lr}",
        f"train.batch_size={batch_size}",
        # Nothing reads the folder: the pictures are made here. Without class images the section changes nothing.
        f"train.dreambooth={{concepts: [{{instance_prompt: {SUBJECT}, instance_folder: x, class_prompt: {CLASS}}}]}}",
    ])  # fmt: skip


def _text_encoder(seed: int) -> TextEncoder:
    torch.manual_seed(seed)
    tokenizer = clip_tokenizer()
    model = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=TOKENS, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    ))  # fmt: skip
    return TextEncoder(model.eval(), tokenizer, "", 32, TOKENS, masked=False)


def _task(config: Config, text: TextEncoder, pictures: np.ndarray, prompts: list[str]) -> DiffusionTask:
    captions = sorted({"", *prompts})
    latents = LatentSet(
        [f"{number:04d}" for number in range(len(pictures))], pictures.astype(np.float16),
        np.full_like(pictures, -12, np.float16), captions, [[captions.index(prompt)] for prompt in prompts],
        text.encode(captions), captions.index(""), 0, {},
    )  # fmt: skip
    frozen = FrozenModels(SimpleNamespace(scaling_factor=1.0, latent_shape=SHAPE, key=""), text)  # type: ignore[arg-type]
    is_class = np.array([prompt == CLASS and SUBJECT in prompts for prompt in prompts])
    return DiffusionTask(config, latents, frozen, make_sampler=instance_class_halves(is_class))


def _train(task: DiffusionTask, steps: int) -> None:
    parameters = [parameter for parameter in task.module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=task.config.train.lr, betas=(0.9, 0.99), fused=True)
    for step in range(steps):
        task.loss(task.module, task.prepare_batch(step, range(task.config.train.batch_size))).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def _subject_loss(task: DiffusionTask) -> float:
    """The loss on the subject's images alone, with noise that training never uses."""
    alone = deepcopy(task.data)
    alone.sample_rows = lambda step, slots: (np.arange(len(slots)) % NUM_SUBJECT, np.ones(len(slots), np.float32))
    return statistics.mean(
        task.loss(task.module, alone.prepare_batch(10**6 + step, range(16))).item() for step in range(4)
    )


@torch.no_grad()
def _draw(task: DiffusionTask, prompt: str, seeds: range) -> Tensor:
    """Samples `(n, *SHAPE)` of a prompt by DDIM without guidance, one per seed."""
    noise = DDIMScheduler.from_config(task.objective.scheduler().config)
    noise.set_timesteps(DRAW_STEPS)
    x = torch.from_numpy(np.stack([np.random.default_rng(seed).normal(size=SHAPE) for seed in seeds])).float()
    tokens = task.frozen.text.tokenizer([prompt], padding="max_length", max_length=TOKENS, return_tensors="pt")
    text = {"input_ids": tokens.input_ids.expand(len(x), -1)}
    for time in noise.timesteps:
        x = noise.step(task.module(x, time.expand(len(x)), text), time, x).prev_sample
    return x


def _kid(first: Tensor, second: Tensor) -> float:
    """Unbiased squared kernel distance with the kernel of KID, (x . y / d + 1)^3."""
    first, second = first.flatten(1).double(), second.flatten(1).double()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    n = len(first)
    within = sum(float((kernel(each, each).sum() - kernel(each, each).diagonal().sum()) / (n * (n - 1)))
                 for each in (first, second))  # fmt: skip
    return within - 2 * float(kernel(first, second).mean())


def _distance(drawn: Tensor, subject: np.ndarray) -> float:
    """Mean distance of samples to the nearest image of the subject."""
    return float(torch.cdist(drawn.flatten(1), torch.from_numpy(subject).flatten(1)).min(dim=1).values.mean())


def _bumps(random: np.random.Generator, count: int) -> np.ndarray:
    """The class: a round spot with a random place and colour."""
    rows, columns = np.mgrid[0:8, 0:8]
    centres, colours = random.uniform(1.5, 5.5, (count, 2)), random.normal(size=(count, 4))
    spots = np.stack([np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 4) for y, x in centres])
    return (2 * colours[:, :, None, None] * spots[:, None]).astype(np.float32)


def _stripes(random: np.random.Generator, count: int) -> np.ndarray:
    """Another class: stripes of a random colour."""
    pattern = np.sin(np.arange(8) * np.pi / 2 + 0.5)[None, None, :] * np.ones((1, 8, 1))
    return (random.normal(size=(count, 4, 1, 1)) * pattern[None, 0]).astype(np.float32)


def _subject(random: np.random.Generator) -> np.ndarray:
    """The subject: two spots of fixed colours in the corners, in four slight variations."""
    spot = _bumps(np.random.default_rng(99), 2)
    pattern = np.roll(spot[0], (3, 3), (1, 2)) - np.roll(spot[1], (-2, -2), (1, 2))
    return np.stack([pattern + 0.1 * random.normal(size=SHAPE) for _ in range(NUM_SUBJECT)]).astype(np.float32)
