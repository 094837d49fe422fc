"""The models and folders that an evaluation judges: found, drawn with, and told apart by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from emoji_ldm.config import Config
from emoji_ldm.dataset.checkpoints import MANIFEST_FILE, Checkpoint
from emoji_ldm.dataset.table import Table
from emoji_ldm.evaluate.image_folder import read_image_folder
from emoji_ldm.evaluate.prompts import GRID
from emoji_ldm.evaluate.real_pictures import RealPicture, TrainingSplit, WantedPicture
from emoji_ldm.evaluate.retrieval import RETRIEVAL, nearest_pictures, searched_pictures
from emoji_ldm.generate.checkpoint_resolver import ALIAS_PREFIX, CACHE_FOLDER, resolve_checkpoint
from emoji_ldm.generate.png_metadata import describe_mode
from emoji_ldm.store import Store
from emoji_ldm.train.manifest import recorded_config
from ray_jobs import generate
from ray_jobs.execution.picture_measuring import embed, split_files, split_located, time_model
from ray_jobs.workers.evaluate_worker import PictureShard
from ray_jobs.workers.generate_worker import GenerateTask


@dataclass(frozen=True)
class JudgedSystem:
    """A model, a folder of pictures or the search for training pictures, with what it drew or found."""

    name: str
    source: str  # URI of the model, the folder, or RETRIEVAL
    model_key: str
    settings: Mapping[str, Any]
    pngs: dict[str, bytes]  # {name of the picture: PNG}
    wanted: dict[str, WantedPicture]  # the same names without those of the grid
    shards: list[PictureShard]  # of all pictures
    grid: dict[str, WantedPicture] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)


def resolve_models(config: Config, store: Store) -> dict[str, str]:
    """Return {short name: URI} of `evaluate.checkpoints`; RETRIEVAL is its own URI. ModelError for an unknown model."""
    found: dict[str, str] = {}
    for checkpoint in config.evaluate.checkpoints or (config.generate.checkpoint or "",):
        uri = checkpoint
        if checkpoint != RETRIEVAL:
            _, uri = resolve_checkpoint(config, store, CACHE_FOLDER, checkpoint)
        name = _short_name(checkpoint, uri)
        # Two folders may have one name, and a table needs two.
        found[name if name not in found else f"{name} ({len(found) + 1})"] = uri
    return found


def training_splits(config: Config, store: Store, uris: Iterable[str]) -> list[TrainingSplit]:
    """Return what each training held out.

    A training that is not recorded is taken to have held out what tags of the images say, else to obey this
    configuration.
    """
    default = config.train
    # The search has no training of its own: beside models it finds what all of them were trained on.
    found = [_recorded_training(store, uri) for uri in uris if uri != RETRIEVAL] or [{}]
    return [
        TrainingSplit(
            train.get("validation_fraction", default.validation_fraction), train.get("seed", default.seed),
            by_tags=not train,
        )
        for train in found
    ]  # fmt: skip


def draw_with(config: Config, name: str, uri: str, prompts: Sequence[WantedPicture]) -> JudgedSystem:
    """Draw the prompts, and with `evaluate.compare` the grid; what the store holds is not drawn again."""
    settings, store = config.evaluate, Store(config.store, config.branch)
    by_prompt = {one.prompt: one for one in prompts}
    drawn = _draw(config, uri, list(by_prompt), settings.images_per_prompt)
    pngs = {row["generated_id"]: row["image"]["bytes"] for row in drawn.rows()}
    wanted = {key: by_prompt[request.prompt] for key, request in zip(drawn.ids, drawn.requests, strict=True)}
    shards, grid = split_located(drawn.table, _prompts(wanted)), dict[str, WantedPicture]()
    if settings.compare:
        cells = _draw(config, uri, [cell.prompt for cell in GRID], 1)
        pngs |= {row["generated_id"]: row["image"]["bytes"] for row in cells.rows()}
        grid = {
            key: WantedPicture.of_prompt(request.prompt)
            for key, request in zip(cells.ids, cells.requests, strict=True)
            if key not in wanted
        }
        shards += split_located(cells.table, _prompts(grid))
    cost = time_model(config, GenerateTask(uri, drawn.key, {}, drawn.requests[0]))
    facts = _settings(config, _recorded_training(store, uri))
    return JudgedSystem(name, uri, drawn.key, facts, pngs, wanted, shards, grid, cost)


def retrieve(
    config: Config, images: Table, facts: Sequence[RealPicture], prompts: Sequence[WantedPicture]
) -> JudgedSystem:
    """Find the training picture nearest to each prompt, and with `evaluate.compare` to each cell of the grid.

    Raises:
        DatasetError: No training image has a caption.
    """
    searched = searched_pictures(facts)
    wanted = {f"{RETRIEVAL}:{number}": one for number, one in enumerate(prompts)}
    cells = [cell.prompt for cell in GRID] if config.evaluate.compare else []
    new = [prompt for prompt in cells if prompt not in {one.prompt for one in prompts}]
    grid = {f"{RETRIEVAL}:grid:{number}": WantedPicture.of_prompt(prompt) for number, prompt in enumerate(new)}
    asked = {name: one.prompt for name, one in {**wanted, **grid}.items()}
    texts = dict.fromkeys([*asked.values(), *(picture.caption for picture in searched)])
    found = nearest_pictures(list(asked.values()), searched, embed(config, list(texts)))
    rows = images.read_located(images.locate(picture.image_id for picture in found), ["image_id", "image"])
    files = {row["image_id"]: row["image"]["bytes"] for row in rows.to_pylist()}
    pngs = {name: files[picture.image_id] for name, picture in zip(asked, found, strict=True)}
    settings = {"images": len(searched)}  # among which it searched
    return JudgedSystem(RETRIEVAL, RETRIEVAL, "", settings, pngs, wanted, split_files(pngs, asked), grid)


def from_folder(folder: str) -> JudgedSystem:
    """Take the PNG files of a folder for what a model drew; ConfigError if there is none."""
    pictures = read_image_folder(folder)
    pngs = {picture.name: picture.png for picture in pictures}
    wanted = {picture.name: WantedPicture.of_prompt(picture.prompt) for picture in pictures}
    return JudgedSystem(folder, folder, "", {"images": len(pngs)}, pngs, wanted, split_files(pngs, _prompts(wanted)))


def _draw(config: Config, uri: str, prompts: Sequence[str], num_images: int) -> generate.DrawnImages:
    # Prompts of the user's own have no truth to be judged by, and an image to start from would be judged instead.
    values = config.model_dump()
    values["generate"] |= {
        "checkpoint": uri, "prompts": list(prompts), "prompts_file": None, "num_images": num_images, "edit": None,
    }  # fmt: skip
    return generate.draw(Config.model_validate(values))


def _prompts(wanted: Mapping[str, WantedPicture]) -> dict[str, str]:
    return {name: one.prompt for name, one in wanted.items()}


def _settings(config: Config, train: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the pictures depend on beside model and prompt."""
    generated = config.generate
    return {
        "sampler": generated.scheduler or "the model's default", "steps": generated.steps,
        "guidance_scale": generated.guidance_scale, "negative_prompt": generated.negative_prompt,
        "seeds": [generated.seed + number for number in range(config.evaluate.images_per_prompt)],
        "mode": describe_mode(generated.batch_size, deterministic=generated.deterministic),
        "weights": _averaging(train), "lora": generated.lora or "",
    }  # fmt: skip


def _averaging(train: Mapping[str, Any]) -> str:
    """Return which weights a pipeline holds: the moving average that training exports."""
    if not train:
        return "as in the pipeline"
    if widths := train.get("ema_widths"):
        return f"EMA of relative width {widths[0]:g}"
    decay = train.get("ema_decay", 0)
    return f"EMA, decay {decay:g}" if decay else "raw"


def _recorded_training(store: Store, uri: str) -> dict[str, Any]:
    """Return the section `train` that a checkpoint in the store was trained with; empty for any other model."""
    path = uri.removeprefix(store.uri).strip("/")
    if not uri.startswith(store.uri) or not store.exists(path, MANIFEST_FILE):
        return {}
    return dict(recorded_config(Checkpoint(store, path, 0).manifest()).get("train", {}))


def _short_name(checkpoint: str, uri: str) -> str:
    if checkpoint.startswith(ALIAS_PREFIX):
        return checkpoint.removeprefix(ALIAS_PREFIX)
    parts = [part for part in uri.split("/") if part not in ("", "pipeline")]
    # checkpoints/RUN/unet/step-00000250-0a1b2c3d
    if len(parts) > 2 and parts[-1].startswith("step-"):
        return f"{parts[-3]} at {int(parts[-1].split('-')[1]):,}"
    return parts[-1]
