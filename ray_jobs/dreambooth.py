"""DreamBooth over Ray: draw the class pictures that are missing, encode every picture once, train on both.

1. check: folders, every picture of the user's, the pipeline to start from, the group; nothing is drawn before
2. draw: class pictures up to `train.num_class_images`, by the generate job
3. encode: pictures and prompts into the tables `latents` and `texts`, as the latents job does
4. train: as any other training; every step but the last finds at a second start what it left at the first
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import ray

from emoji_ldm.config import Config, TrainConfig, key_of
from emoji_ldm.dataset.lineage import Lineage
from emoji_ldm.errors import ConfigError
from emoji_ldm.progress import print_status
from emoji_ldm.schemas import IMAGE_TYPE
from emoji_ldm.store import Store
from emoji_ldm.train import resume
from emoji_ldm.train.engines import device
from emoji_ldm.train.preflight import check_training
from emoji_ldm.train.tasks import sampler
from emoji_ldm.train.tasks.dreambooth import (
    GENERATED_FOLDER,
    ConceptFolder,
    DreamBoothData,
    SquareImage,
    concept_folders,
    load_squares,
    load_task,
)
from emoji_ldm.train.tasks.pipeline_export import check_init
from emoji_ldm.train.training_args import RunContext, TrainingArgs, TrainingTask, build_training_args
from ray_jobs import generate, latents
from ray_jobs.execution import delta_sink, ray_runtime, trainer

PER_SHARD = 16  # pictures that travel and are committed together


def run(config: Config) -> dict[str, object]:
    """Learn `train.concepts`, going on by itself; returns figures for people.

    Raises:
        ConfigError: A folder, picture or prompt is missing or wrong.
        ModelError: `train.init` is missing or of another kind.
        JobError: The cluster lacks resources, or see `ray_jobs.execution.trainer.train`.
    """
    found = concept_folders(config)
    plan, store = build_training_args(config, "train"), Store(config.store, config.branch)
    check_training(config, plan, store, config.train.num_workers)
    check_init(config)
    own = {album: list(load_squares(album.files(), config.latents.size_px)) for album in found}
    _check_group(config, plan, store)
    counts = [_generate_class_images(config, album) for album in found if album.is_class]
    shown = {album: _concept_images(config, album, own[album]) for album in found}
    lesson = _dreambooth_data(shown)
    pictures = {square.image_id: square.png for several in shown.values() for square in several}
    captions = {prompt for several in lesson.prompts.values() for prompt in several}
    encoded = latents.encode(config, _pictures(pictures), captions, Lineage(config, "train", {}))
    facts = trainer.train(_with_prompts(config, found), "train", partial(_load, lesson))
    return {
        "subject pictures": len(lesson.prompts) - len(lesson.classes),
        "class pictures": f"{len(lesson.classes)} ({sum(counts)} drawn just now)",
        "pictures encoded": encoded.counts.get("latents", 0),
        **facts,
    }


def _check_group(config: Config, plan: TrainingArgs, store: Store) -> None:
    """Raise now what the group would raise once all class pictures are drawn and encoded."""
    train = config.train
    fewest = train.min_workers or train.num_workers
    sampler.check_worker_range(fewest, train.num_workers, plan.batch_size, plan.micro_batch_size)
    resume.check_resumable(store, config, plan)
    ray_runtime.connect(config.ray)
    ray_runtime.wait_for_resources(
        config.ray, "train", fewest, num_cpus=trainer.NUM_CPUS, num_gpus=train.gpus_per_worker
    )
    if missing := _run_on_worker(train, _missing_requirement, plan):
        raise ConfigError(missing)


def _run_on_worker(train: TrainConfig, task: Callable[..., Any], *arguments: object) -> Any:
    """Call it where a worker may be placed: its node has what this one may lack, and the other way round."""
    return ray.get(ray.remote(num_cpus=trainer.NUM_CPUS, num_gpus=train.gpus_per_worker)(task).remote(*arguments))


def _missing_requirement(plan: TrainingArgs) -> str:
    """What the plan's options need and this node lacks, for the user; empty if nothing."""
    try:
        device.check_options(plan)
    except ConfigError as error:
        return str(error)
    return ""


def _generate_class_images(config: Config, album: ConceptFolder) -> int:
    """Draw what the class lacks, as the generate job does: what is drawn already is left alone."""
    missing = config.train.num_class_images - len(album.files())
    if missing <= 0:
        return 0
    folder = album.folder / GENERATED_FOLDER
    print_status(
        f"class {album.prompt!r}: {len(album.files())} pictures in {album.folder}, {missing} drawn ones in {folder}"
    )
    wanted = {"prompts": (album.prompt,), "prompts_file": "", "num_images": missing, "checkpoint": config.train.init,
              "output": str(folder)}  # fmt: skip
    done = generate.run(config.model_copy(update={"generate": config.generate.model_copy(update=wanted)}))
    return int(str(done["new"]))


def _concept_images(config: Config, album: ConceptFolder, own: Sequence[SquareImage]) -> list[SquareImage]:
    """An album's pictures; a class's are the user's and then drawn ones, `num_class_images` in all."""
    if not album.is_class:
        return list(own)
    missing = config.train.num_class_images - len(own)
    if missing <= 0:  # nothing was drawn
        return list(own[: config.train.num_class_images])
    return [*own, *load_squares(album.drawn()[:missing], config.latents.size_px)]


def _dreambooth_data(shown: Mapping[ConceptFolder, Iterable[SquareImage]]) -> DreamBoothData:
    """What each picture is an example of; one that shows a subject is none of its class."""
    prompts: dict[bool, dict[str, tuple[str, ...]]] = {False: {}, True: {}}
    for album, several in shown.items():
        of = prompts[album.is_class]
        for image_id in {square.image_id for square in several}:
            of[image_id] = (*of.get(image_id, ()), album.prompt)
    classes = frozenset(prompts[True].keys() - prompts[False].keys())
    return DreamBoothData({**prompts[True], **prompts[False]}, classes)


def _pictures(files: Mapping[str, bytes]) -> latents.ImageSource:
    """Pictures that lie on this machine alone: they travel with their shards."""

    def split(image_ids: Collection[str], *, key: str) -> list[delta_sink.WorkShard]:
        ordered = sorted(image_ids)
        parts = [ordered[start : start + PER_SHARD] for start in range(0, len(ordered), PER_SHARD)]
        return [
            delta_sink.WorkShard(
                key_of(key, part), {name: base64.b64encode(files[name]).decode() for name in part}, len(part)
            )
            for part in parts
        ]

    return latents.ImageSource(set(files), split, _read)


def _read(payload: dict[str, str]) -> pa.Table:
    images = [{"bytes": base64.b64decode(data), "path": f"{image_id}.png"} for image_id, data in payload.items()]
    return pa.table({"image_id": pa.array(payload, pa.string()), "image": pa.array(images, IMAGE_TYPE)})


def _with_prompts(config: Config, found: Iterable[ConceptFolder]) -> Config:
    """The configuration with every prompt in the sample grids, subjects first, unless it names others."""
    prompts = config.train.sample_prompts or tuple(dict.fromkeys(album.prompt for album in found))
    return config.model_copy(update={"train": config.train.model_copy(update={"sample_prompts": prompts})})


def _load(lesson: DreamBoothData, place: RunContext) -> TrainingTask:
    from ray_jobs.execution.sample_grids import preview

    return load_task(lesson, place, partial(preview, place.config.generate))
