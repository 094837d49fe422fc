"""DreamBooth over Ray: draw the class images that are missing, encode every image once, train on both.

1. check: folders, the user's images, the pipeline to start from, the worker group; all before anything is drawn
2. draw: class images up to `train.dreambooth.num_class_images`, by the generate stage
3. encode: images and prompts into the tables `latents` and `text_embeddings`, by the latents stage
4. train: as any other training

Each step but the last finds, when the command is run again, what it left the first time. Prior preservation
(arXiv 2208.12242, section 3.3) is why class images are needed: they keep the class from drifting to the subject.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import ray

from emoji_ldm.config import Config, TrainConfig
from emoji_ldm.dataset.lineage import Lineage, RunInfo
from emoji_ldm.errors import ConfigError
from emoji_ldm.progress import print_status
from emoji_ldm.store import Store
from emoji_ldm.train import resume
from emoji_ldm.train.engines import distributed
from emoji_ldm.train.preflight import check_training
from emoji_ldm.train.tasks import sampler
from emoji_ldm.train.tasks.dreambooth import (
    GENERATED_FOLDER,
    ConceptFolder,
    DreamBoothData,
    SquareImage,
    concept_folders,
    dreambooth_options,
    load_squares,
    load_task,
)
from emoji_ldm.train.tasks.pipeline_export import check_init
from emoji_ldm.train.training_args import RunContext, TrainingArgs, TrainingTask, build_training_args
from ray_jobs import generate, latents
from ray_jobs.execution import ray_runtime, shards, trainer

# Images that are sent and committed together. Their bytes travel with the shard, so this also bounds its size.
IMAGES_PER_SHARD = 16


def run(config: Config) -> dict[str, object]:
    """Train on the subjects of `train.dreambooth`, resuming by itself; returns figures for the summary.

    Raises:
        ConfigError: A folder, image or prompt is missing or wrong.
        ModelError: `train.init` is missing or of another kind.
        JobError: The cluster lacks resources, or see `ray_jobs.execution.trainer.train`.
    """
    # All of the user's mistakes are found before the first image is drawn: class images may take hours of a GPU.
    concepts = concept_folders(config)
    plan, store = build_training_args(config, "train"), Store(config.store, config.branch)
    check_training(config, plan, store, config.train.num_workers)
    check_init(config)
    # The user's images are loaded once and kept: a file that cannot be decoded fails here, and two steps below need
    # them.
    own = {concept: list(load_squares(concept.image_files(), config.latents.size_px)) for concept in concepts}
    _check_group(config, plan, store)
    counts = [_generate_class_images(config, concept) for concept in concepts if concept.is_class]
    used = {concept: _concept_images(config, concept, own[concept]) for concept in concepts}
    data = _dreambooth_data(used)
    # An image that shows two concepts has one id, hence one entry, and is encoded once.
    files = {square.image_id: square.png for several in used.values() for square in several}
    captions = {prompt for several in data.prompts.values() for prompt in several}
    images = shards.local_images(files, rows_per_shard=IMAGES_PER_SHARD)
    # No parent tables: these images come from folders of this machine, not from a version of the store.
    lineage = Lineage(RunInfo(config.run, config.to_json()), "train", {})
    encoded = latents.encode(config, images, captions, lineage)
    # What each image shows travels with the task's loader: tables of the store know nothing of concepts.
    facts = trainer.train(_with_prompts(config, concepts), "train", partial(_load, data))
    return {
        "subject images": len(data.prompts) - len(data.classes),
        "class images": f"{len(data.classes)} ({sum(counts)} drawn now)",
        "images encoded": encoded.counts.get("latents", 0),
        **facts,
    }


def _check_group(config: Config, plan: TrainingArgs, store: Store) -> None:
    """Raise now what the worker group would raise only once all class images are drawn and encoded."""
    train = config.train
    # An elastic group may shrink to this number, so the batch must divide among any number from here on.
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
    """Call it where a worker may be placed: its node may have what this one lacks, and conversely."""
    # A plain task with the resources of a worker is scheduled onto the same kind of node as the worker.
    return ray.get(ray.remote(num_cpus=trainer.NUM_CPUS, num_gpus=train.gpus_per_worker)(task).remote(*arguments))


def _missing_requirement(plan: TrainingArgs) -> str:
    """Return what the options need and this node lacks, for the user; empty if nothing."""
    try:
        distributed.check_options(plan)
    except ConfigError as error:
        return str(error)
    return ""


def _generate_class_images(config: Config, concept: ConceptFolder) -> int:
    """Draw the images that the class lacks, by the generate stage, which leaves alone what is drawn already."""
    # The user's own class images count too, as in the reference implementation of diffusers.
    missing = dreambooth_options(config.train).num_class_images - len(concept.image_files())
    if missing <= 0:
        return 0
    folder = concept.folder / GENERATED_FOLDER
    present = f"{len(concept.image_files())} images in {concept.folder}"
    print_status(f"class {concept.prompt!r}: {present}, {missing} generated ones in {folder}")
    # The generate stage plans by content, so an interrupted run continues with the seeds that it has not drawn yet.
    settings = {"prompts": (concept.prompt,), "prompts_file": None, "num_images": missing,
                "checkpoint": config.train.init, "output": str(folder)}  # fmt: skip
    done = generate.run(config.model_copy(update={"generate": config.generate.model_copy(update=settings)}))
    return int(str(done["new"]))


def _concept_images(config: Config, concept: ConceptFolder, own: Sequence[SquareImage]) -> list[SquareImage]:
    """Return the images of a concept; a class has the user's and then generated ones, `num_class_images` in all."""
    if not concept.is_class:
        return list(own)
    num_class_images = dreambooth_options(config.train).num_class_images
    missing = num_class_images - len(own)
    if missing <= 0:  # nothing was generated
        return list(own[:num_class_images])
    return [*own, *load_squares(concept.generated_files()[:missing], config.latents.size_px)]


def _dreambooth_data(used: Mapping[ConceptFolder, Iterable[SquareImage]]) -> DreamBoothData:
    """Return the prompts of each image; an image that shows a subject is no example of its class."""
    prompts: dict[bool, dict[str, tuple[str, ...]]] = {False: {}, True: {}}
    for concept, several in used.items():
        own = prompts[concept.is_class]
        for image_id in {square.image_id for square in several}:
            own[image_id] = (*own.get(image_id, ()), concept.prompt)
    # The prior preservation loss weighs class images differently (section 3.3), so no image may be of both kinds. The
    # subject wins: its images are few, and they are what the user wants the model to learn.
    classes = frozenset(prompts[True].keys() - prompts[False].keys())
    return DreamBoothData({**prompts[True], **prompts[False]}, classes)


def _with_prompts(config: Config, concepts: Iterable[ConceptFolder]) -> Config:
    """Return the configuration with every prompt in the sample grids, subjects first, unless it names others."""
    # dict.fromkeys removes duplicates and keeps the order, which a set would not.
    prompts = config.train.sample_prompts or tuple(dict.fromkeys(concept.prompt for concept in concepts))
    return config.model_copy(update={"train": config.train.model_copy(update={"sample_prompts": prompts})})


def _load(data: DreamBoothData, context: RunContext) -> TrainingTask:
    from ray_jobs.execution.sample_grids import preview

    on_gpu = context.config.train.gpus_per_worker > 0
    return load_task(data, context, partial(preview, context.config.generate, on_gpu=on_gpu))
