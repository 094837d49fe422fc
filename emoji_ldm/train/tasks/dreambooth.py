"""DreamBooth (arXiv 2208.12242): learn subjects from a few images each, without unlearning their class.

1. `concept_folders` checks the folders of `train.dreambooth`; `load_squares` crops their images, known by a pixel hash
2. the driver encodes these images and fills up classes that have too few with generated ones
3. `load_task` reads their latents and mixes subjects and classes

With prior preservation a batch is half subjects, half classes: even positions of the batch show a subject, odd ones a
class. The loss is that of the subjects plus `prior_weight` times that of the classes, each a mean over its half
(equation 2). Which image is at which position depends on (seed, step, position) alone.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from emoji_ldm.config import Config, DreamBoothOptions, TrainConfig
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import ConfigError
from emoji_ldm.images.decode import decode_image
from emoji_ldm.images.normalize import pixel_hash
from emoji_ldm.latents.augmentation import augmentation_keys
from emoji_ldm.latents.latent_files import EncodingKeys
from emoji_ldm.latents.latent_loading import build_latent_set
from emoji_ldm.outcomes import Rejected
from emoji_ldm.schemas import LATENTS, TEXT_EMBEDDINGS
from emoji_ldm.train.tasks import sampler
from emoji_ldm.train.tasks.diffusion_task import DiffusionTask
from emoji_ldm.train.tasks.latent_batches import Rows, RowSampler, RowSamplerFactory, sample_uniformly
from emoji_ldm.train.tasks.pipeline_export import load_frozen
from emoji_ldm.train.training_args import PreviewFunction, RunContext

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".avif", ".heic", ".heif", ".tif", ".tiff"}
LIST_FILE = "prompts.csv"  # see emoji_ldm.generate.output_folder
# This folder below a class folder holds images that were generated because the user's are too few.
GENERATED_FOLDER = "generated"
MAX_SIDE_PX = 16384
REMEDY = "convert it to JPEG or PNG, or remove it from the folder"


@dataclass(frozen=True)
class ConceptFolder:
    """A folder of images that share a prompt."""

    prompt: str
    folder: Path
    is_class: bool = False

    def image_files(self) -> list[Path]:
        """The user's own images, by name."""
        return _image_files(self.folder)

    def generated_files(self) -> list[Path]:
        """Images that were generated to fill up the class, in the order of their list."""
        # The list is read and not the folder, where an interrupted generation may have left more files.
        with (self.folder / GENERATED_FOLDER / LIST_FILE).open(newline="", encoding="utf-8") as stream:
            return [self.folder / GENERATED_FOLDER / row["file"] for row in csv.DictReader(stream)]


@dataclass(frozen=True)
class SquareImage:
    """A square image."""

    image_id: str  # SHA-256 of size and RGBA pixels, as in the table `images`
    png: bytes


def dreambooth_options(train: TrainConfig) -> DreamBoothOptions:
    """The settings of a DreamBooth training; without them no function here has a meaning."""
    assert train.dreambooth is not None, "train.dreambooth is set"
    return train.dreambooth


def concept_folders(config: Config) -> list[ConceptFolder]:
    """The folders of `train.dreambooth`: subjects first, then their classes.

    Raises:
        ConfigError: A folder is missing, empty or given for two prompts, `train.init` is not set, or the batch size is
            odd and cannot hold two halves.
    """
    train, options = config.train, dreambooth_options(config.train)
    if not train.init:
        raise ConfigError("train.dreambooth needs a pretrained model to teach; name its pipeline with train.init=...")
    if config.latents.buckets:
        raise ConfigError("train.dreambooth crops its images to squares; set latents.buckets=null")
    subjects = [
        ConceptFolder(each.instance_prompt, Path(each.instance_folder).expanduser()) for each in options.concepts
    ]
    for number, subject in enumerate(subjects):
        _check_subject(subject, number)
    classes = _class_folders(config)
    if classes and train.batch_size % 2:
        raise ConfigError(
            f"train.batch_size={train.batch_size} is odd: with a class_prompt one half of a batch shows the subject, "
            f"the other the class; give {train.batch_size + 1}"
        )
    # Concepts may share a class, whose folder then counts once. The order is kept.
    found = list(dict.fromkeys([*subjects, *classes]))
    _check_distinct(found)
    return found


def load_squares(paths: Iterable[Path], size_px: int) -> Iterator[SquareImage]:
    """Each image upright, its centre cropped to a square and scaled to `size_px`.

    Raises:
        ConfigError: A file cannot be read as an image.
    """
    # Threads suffice, as Pillow releases the interpreter lock while it decodes and scales.
    with ThreadPoolExecutor() as pool:
        yield from pool.map(lambda path: _load_square(path, size_px), paths)


def _load_square(path: Path, size_px: int) -> SquareImage:
    try:
        image, _, _ = decode_image(path.read_bytes(), MAX_SIDE_PX)
    except (OSError, Rejected) as error:
        raise ConfigError(f"cannot read the image {path}: {error}; {REMEDY}") from None
    # Photos are cropped and not padded as emoji are, since a border would be learnt as part of the subject.
    square, png = ImageOps.fit(image, (size_px, size_px), Image.Resampling.LANCZOS), io.BytesIO()
    # Speed counts here and size does not: the file only travels to the encoder.
    square.save(png, "PNG", compress_level=1)
    return SquareImage(pixel_hash(size_px, size_px, square.tobytes()), png.getvalue())


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != ".")


def _class_folders(config: Config) -> list[ConceptFolder]:
    """Class folders of the concepts that have a class; equal prompts share a folder unless folders are given."""
    options = dreambooth_options(config.train)
    found, prompts = list[ConceptFolder](), [concept.class_prompt for concept in options.concepts]
    for concept in options.concepts:
        if concept.class_prompt and options.prior_weight:
            # The index is that of the first concept with this prompt, so that equal prompts get the same folder.
            folder = concept.class_folder or f"runs/{config.run}/class-{prompts.index(concept.class_prompt)}"
            found.append(ConceptFolder(concept.class_prompt, Path(folder).expanduser(), is_class=True))
    return found


def _check_distinct(found: Iterable[ConceptFolder]) -> None:
    prompts: dict[Path, str] = {}
    for concept in found:
        # The prompt belongs to the folder's images, so a folder with two prompts would be read with one of them.
        other = prompts.setdefault(concept.folder.absolute(), concept.prompt)
        if other != concept.prompt:
            raise ConfigError(
                f"train.dreambooth.concepts: {concept.folder} is for two prompts, {other!r} and {concept.prompt!r}; "
                "give each a folder of its own"
            )


def _check_subject(concept: ConceptFolder, number: int) -> None:
    name = f"train.dreambooth.concepts.{number}.instance_folder={concept.folder}"
    if not concept.prompt.strip():
        raise ConfigError(
            f"train.dreambooth.concepts.{number}.instance_prompt is empty; give one such as 'a photo of sks dog'"
        )
    if not concept.folder.is_dir():
        raise ConfigError(f"{name} is no folder on this machine; put 3 to 20 images of the subject there")
    if not concept.image_files():
        raise ConfigError(f"{name} holds no image (such as .jpg or .png); put 3 to 20 images of the subject there")


@dataclass(frozen=True)
class DreamBoothData:
    """The images to learn from; their latents and the states of their prompts are in the store."""

    prompts: Mapping[str, tuple[str, ...]]  # {image id: its prompts}; an image may show two subjects
    classes: frozenset[str]  # ids of images that show a class


def load_task(data: DreamBoothData, context: RunContext, preview: PreviewFunction | None = None) -> DiffusionTask:
    """The task of `config.train` on these images.

    Raises:
        ModelError: The autoencoder or the text encoder is missing.
        DatasetError: An image has no latents.
    """
    frozen = load_frozen(context.config, context.store, context.scratch_dir)
    tables = {spec.name: Table(context.store, spec) for spec in (LATENTS, TEXT_EMBEDDINGS)}
    encodings = augmentation_keys(frozen.vae.key, context.config.latents.augmentations)
    latents = build_latent_set(data.prompts, tables, EncodingKeys(encodings, frozen.text.key))
    # The rows are those of the latent set, which is sorted by image id.
    is_class = np.array([image_id in data.classes for image_id in latents.image_ids])
    return DiffusionTask(context.config, latents, frozen, preview, instance_class_halves(is_class))


def instance_class_halves(is_class: NDArray[np.bool_]) -> RowSamplerFactory:
    """Subjects at even positions of a batch and classes at odd ones; only subjects if there is no class.

    Args:
        is_class: `(N,)`, per row of the latent set.
    """

    def make_sampler(config: TrainConfig, rows: Rows) -> RowSampler:
        subjects, classes = rows[~is_class[rows]], rows[is_class[rows]]
        # The split is by hash, so with three images it may well hold out all of them.
        if not len(subjects):
            raise ConfigError(
                f"train.validation_fraction={config.validation_fraction:g} holds out all images of the "
                "subject; lower it"
            )
        return _half_batches(config, subjects, classes) if len(classes) else sample_uniformly(config, subjects)

    return make_sampler


def _half_batches(config: TrainConfig, subjects: Rows, classes: Rows) -> RowSampler:
    half, prior_weight = config.batch_size // 2, np.float32(dreambooth_options(config).prior_weight)

    def sample(step: int, slots: range) -> tuple[Rows, NDArray[np.float32]]:
        odd = np.arange(slots.start, slots.stop) % 2 == 1
        chosen = np.empty(len(slots), np.int64)
        # The slots of a rank may begin at an odd position. Even positions 0, 2, 4 are numbers 0, 1, 2 of the subjects'
        # own order, odd ones likewise of the classes'.
        firsts = range((slots.start + 1) // 2, (slots.stop + 1) // 2)
        seconds = range(slots.start // 2, slots.stop // 2)
        chosen[~odd] = subjects[sampler.sample_indices(config.seed, step, firsts, batch_size=half, size=len(subjects))]
        # Another seed: with the same one, sets of equal size would always form the same pairs.
        chosen[odd] = classes[
            sampler.sample_indices(config.seed + 1, step, seconds, batch_size=half, size=len(classes))
        ]
        # Times two: the mean over the batch then is the sum of the means over its halves.
        return chosen, 2 * np.where(odd, prior_weight, np.float32(1))

    return sample
