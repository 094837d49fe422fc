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
from emoji_ldm.progress import say
from emoji_ldm.records import IMAGE
from emoji_ldm.store import Store
from emoji_ldm.train import checkpoint, device, order
from emoji_ldm.train.album import DRAWN, Album, Square, albums, squares
from emoji_ldm.train.check import check
from emoji_ldm.train.pipeline import check_init
from emoji_ldm.train.plan import Place, Plan, Task, plan_of
from emoji_ldm.train.subject import Lesson, load_task
from ray_jobs import cluster, generate, group, latents, sink

PER_SHARD = 16  # pictures that travel and are committed together


def run(config: Config) -> dict[str, object]:
    """Learn `train.concepts`, going on by itself; returns figures for people.

    Raises:
        ConfigError: A folder, picture or prompt is missing or wrong.
        ModelError: `train.init` is missing or of another kind.
        JobError: The cluster lacks resources, or see `ray_jobs.group.train`.
    """
    found = albums(config)
    plan, store = plan_of(config, "train"), Store(config.store, config.branch)
    check(config, plan, store, config.train.num_workers)
    check_init(config)
    own = {album: list(squares(album.files(), config.latents.size_px)) for album in found}
    _check_group(config, plan, store)
    counts = [_fill(config, album) for album in found if album.is_class]
    shown = {album: _all(config, album, own[album]) for album in found}
    lesson = _lesson(shown)
    pictures = {square.image_id: square.png for several in shown.values() for square in several}
    captions = {prompt for several in lesson.prompts.values() for prompt in several}
    encoded = latents.encode(config, _pictures(pictures), captions, Lineage(config, "train", {}))
    facts = group.train(_with_prompts(config, found), "train", partial(_load, lesson))
    return {
        "subject pictures": len(lesson.prompts) - len(lesson.classes),
        "class pictures": f"{len(lesson.classes)} ({sum(counts)} drawn just now)",
        "pictures encoded": encoded.counts.get("latents", 0),
        **facts,
    }


def _check_group(config: Config, plan: Plan, store: Store) -> None:
    """Raise now what the group would raise once all class pictures are drawn and encoded."""
    train = config.train
    fewest = train.min_workers or train.num_workers
    order.check_range(fewest, train.num_workers, plan.batch_size, plan.micro_batch_size)
    checkpoint.check(store, config, plan)
    cluster.connect(config.ray)
    cluster.require(config.ray, "train", fewest, num_cpus=group.NUM_CPUS, num_gpus=train.gpus_per_worker)
    if missing := _on_a_worker(train, _missing, plan):
        raise ConfigError(missing)


def _on_a_worker(train: TrainConfig, task: Callable[..., Any], *arguments: object) -> Any:
    """Call it where a worker may be placed: its node has what this one may lack, and the other way round."""
    return ray.get(ray.remote(num_cpus=group.NUM_CPUS, num_gpus=train.gpus_per_worker)(task).remote(*arguments))


def _missing(plan: Plan) -> str:
    """What the plan's options need and this node lacks, for the user; empty if nothing."""
    try:
        device.check(plan)
    except ConfigError as error:
        return str(error)
    return ""


def _fill(config: Config, album: Album) -> int:
    """Draw what the class lacks, as the generate job does: what is drawn already is left alone."""
    missing = config.train.num_class_images - len(album.files())
    if missing <= 0:
        return 0
    folder = album.folder / DRAWN
    say(f"class {album.prompt!r}: {len(album.files())} pictures in {album.folder}, {missing} drawn ones in {folder}")
    wanted = {"prompts": (album.prompt,), "prompts_file": "", "num_images": missing, "checkpoint": config.train.init,
              "output": str(folder)}  # fmt: skip
    done = generate.run(config.model_copy(update={"generate": config.generate.model_copy(update=wanted)}))
    return int(str(done["new"]))


def _all(config: Config, album: Album, own: Sequence[Square]) -> list[Square]:
    """An album's pictures; a class's are the user's and then drawn ones, `num_class_images` in all."""
    if not album.is_class:
        return list(own)
    missing = config.train.num_class_images - len(own)
    if missing <= 0:  # nothing was drawn
        return list(own[: config.train.num_class_images])
    return [*own, *squares(album.drawn()[:missing], config.latents.size_px)]


def _lesson(shown: Mapping[Album, Iterable[Square]]) -> Lesson:
    """What each picture is an example of; one that shows a subject is none of its class."""
    prompts: dict[bool, dict[str, tuple[str, ...]]] = {False: {}, True: {}}
    for album, several in shown.items():
        of = prompts[album.is_class]
        for image_id in {square.image_id for square in several}:
            of[image_id] = (*of.get(image_id, ()), album.prompt)
    classes = frozenset(prompts[True].keys() - prompts[False].keys())
    return Lesson({**prompts[True], **prompts[False]}, classes)


def _pictures(files: Mapping[str, bytes]) -> latents.Pictures:
    """Pictures that lie on this machine alone: they travel with their shards."""

    def split(image_ids: Collection[str], *, key: str) -> list[sink.Shard]:
        ordered = sorted(image_ids)
        parts = [ordered[start : start + PER_SHARD] for start in range(0, len(ordered), PER_SHARD)]
        return [
            sink.Shard(key_of(key, part), {name: base64.b64encode(files[name]).decode() for name in part}, len(part))
            for part in parts
        ]

    return latents.Pictures(set(files), split, _read)


def _read(payload: dict[str, str]) -> pa.Table:
    images = [{"bytes": base64.b64decode(data), "path": f"{image_id}.png"} for image_id, data in payload.items()]
    return pa.table({"image_id": pa.array(payload, pa.string()), "image": pa.array(images, IMAGE)})


def _with_prompts(config: Config, found: Iterable[Album]) -> Config:
    """The configuration with every prompt in the sample grids, subjects first, unless it names others."""
    prompts = config.train.sample_prompts or tuple(dict.fromkeys(album.prompt for album in found))
    return config.model_copy(update={"train": config.train.model_copy(update={"sample_prompts": prompts})})


def _load(lesson: Lesson, place: Place) -> Task:
    from ray_jobs.train import preview

    return load_task(lesson, place, partial(preview, place.config.generate))
