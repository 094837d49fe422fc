"""What a checkpoint's manifest records of its training, and whether a run may go on from it.

The manifest holds the resolved configuration. Its field names changed over time, so it also holds the version of their
names, and `recorded_config` brings older ones up to date. Nothing else may read `manifest["config"]`: a renamed option
would silently no longer be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from emoji_ldm import __version__
from emoji_ldm.config import Config, LoraOptions
from emoji_ldm.dataset.checkpoints import Checkpoint
from emoji_ldm.errors import ConfigError, ModelError
from emoji_ldm.store import Store
from emoji_ldm.train.training_args import RunContext, TrainingArgs

# Version of the option names in a recorded configuration. A change raises it and adds a migration to `recorded_config`.
CONFIG_VERSION = 3

# Options that decide what the tensors of a checkpoint are or mean. All others, such as the learning rate or the batch
# size, may change between a checkpoint and the training that goes on from it.
FIXED_OPTIONS = (
    "kind", "init", "transformer", "block_out_channels", "attention", "layers_per_block", "num_heads", "time_embedding",
    "latent_channels", "trainable_pattern", "lora", "textual_inversion", "train_text_encoder", "prediction_type",
    "beta_start", "beta_end", "zero_terminal_snr", "ema_widths",
)  # fmt: skip

# Facts of a task that decide it too, and how a user knows them. An option names a model by folder or hub id, behind
# which other weights may lie by now: the key is a hash of the weights themselves.
FIXED_FACTS = {
    "codec_key": "the autoencoder of the latents (latents.vae)",
    "encoder_key": "the text encoder (latents.text_encoder)",
    "scaling_factor": "the scaling factor of the latents",
    "base_key": "the network of train.init",
}

# Version 1 -> 2: {section: {old name: new name}}, and fields whose 0, -1, "" or [] stood for "not set".
RENAMED_IN_2 = {
    "train": {"keep": "keep_last", "validation": "validation_fraction", "caption_drop": "caption_dropout",
              "trainable": "trainable_pattern", "num_gpus": "gpus_per_worker"},
    "autoencoder": {"num_gpus": "gpus_per_worker"},
    "latents": {"codec": "vae", "variants": "num_augmentations", "num_gpus": "gpus_per_worker"},
}  # fmt: skip
UNSET_IN_2 = {
    "init": "", "attention": [], "trainable_pattern": "", "lora_rank": 0, "lora_alpha": 0, "snr_gamma": 0,
    "micro_batch_size": 0, "spike_factor": 0, "min_workers": 0, "max_preemptions": -1, "resume": "", "sample_every": 0,
    "sample_prompts": [], "mlflow": "", "wandb": "", "class_prompt": "", "class_folder": "",
}  # fmt: skip

# Version 2 -> 3: {section: {old name: its name in the nested section}}. Options that had to be set together became one.
LORA_IN_3 = {"lora_rank": "rank", "lora_alpha": "alpha", "lora_targets": "targets"}
DREAMBOOTH_IN_3 = {name: name for name in ("concepts", "prior_weight", "num_class_images")}
AUGMENTATIONS_IN_3 = {"num_augmentations": "num_copies", "flip": "flip", "jitter": "jitter"}

Sections = dict[str, Any]  # {section: {option: value}}, and `run`


def checkpoint_facts(context: RunContext, args: TrainingArgs) -> dict[str, Any]:
    """How the checkpoint came to be, for its manifest."""
    return {
        "config": context.config.model_dump(mode="json"), "config_version": CONFIG_VERSION,
        "zero_stage": args.zero_stage, "code": __version__,
    }  # fmt: skip


def recorded_config(manifest: Mapping[str, Any]) -> Sections:
    """`run` and the sections `train`, `autoencoder` and `latents` of the recorded configuration, in today's names.

    Other sections do not bear on a checkpoint and are left out.

    Raises:
        ModelError: A newer version of this package wrote it.
    """
    recorded: Mapping[str, Any] = manifest.get("config", {})
    version = int(manifest.get("config_version", 1))
    # A newer version may have renamed a fixed option, whose comparison would then silently be skipped.
    if version > CONFIG_VERSION:
        raise ModelError(
            f"the checkpoint was written by emoji_ldm {manifest.get('code', '')}, which is newer than this one "
            f"({__version__}); update this installation, or train under another name (run=...)"
        )
    sections = {name: recorded[name] for name in ("run", "train", "autoencoder", "latents") if name in recorded}
    if version < 2:
        sections = _to_version_2(sections)
    sections = _to_version_3(sections) if version < 3 else sections
    return {name: _whole_lora(values) for name, values in sections.items()}


def _whole_lora(values: Any) -> Any:
    """The section with all fields of `lora`, which is compared as a whole; those added later get their defaults."""
    if not isinstance(values, Mapping) or not values.get("lora"):
        return values
    return {**values, "lora": LoraOptions(**values["lora"]).model_dump(mode="json")}


def _to_version_2(sections: Mapping[str, Any]) -> Sections:
    return {
        name: _unset({RENAMED_IN_2[name].get(option, option): value for option, value in values.items()})
        if name in RENAMED_IN_2
        else values
        for name, values in sections.items()
    }


def _unset(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with null for what is not set, in the concepts of DreamBooth as well."""
    found: dict[str, Any] = {
        # False equals 0 in Python, but means a switch that is off and not a number that is unset.
        name: None if name in UNSET_IN_2 and value == UNSET_IN_2[name] and value is not False else value
        for name, value in options.items()
    }
    if "concepts" in found:
        found["concepts"] = [_unset(concept) for concept in found["concepts"]]
    return found


def _to_version_3(sections: Mapping[str, Any]) -> Sections:
    train, latents = dict(sections.get("train", {})), dict(sections.get("latents", {}))
    lora, dreambooth = _taken(train, LORA_IN_3), _taken(train, DREAMBOOTH_IN_3)
    # The defaults are filled in, since a nested section is compared as a whole.
    train["lora"] = LoraOptions(**lora).model_dump(mode="json") if lora.get("rank") else None
    train["dreambooth"] = dreambooth if dreambooth.get("concepts") else None
    altered = _taken(latents, AUGMENTATIONS_IN_3)
    # The number counted the unaltered image too, and options that altered nothing could be recorded.
    copies = altered.get("num_copies", 1) - 1
    altered["num_copies"] = copies if altered.get("jitter") else 1
    latents["augmentations"] = altered if copies > 0 and (altered.get("flip") or altered.get("jitter")) else None
    changed = {"train": train, "latents": latents}
    return {name: changed.get(name, values) for name, values in sections.items()}


def _taken(options: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Take the options of these names out, and return them under their new names."""
    return {new: options.pop(old) for old, new in names.items() if old in options}


def refuse_mismatch(
    checkpoint: Checkpoint, manifest: Mapping[str, Any], config: Config, args: TrainingArgs,
    facts: Mapping[str, Any] = MappingProxyType({}),
) -> None:  # fmt: skip
    """Raise ModelError if what the checkpoint's tensors depend on differs from what is to be trained.

    Args:
        checkpoint: The checkpoint that the error names.
        manifest: Its manifest.
        config: The configuration whose section `args.section` is compared with the recorded one.
        args: The settings of the training, which name the section.
        facts: The task's `manifest_facts`, where it is built already; see `FIXED_FACTS`.
    """
    theirs = recorded_config(manifest).get(args.section, {})
    # Both sides are compared as JSON, since that is what was recorded: tuples have become lists.
    ours = config.model_dump(mode="json")[args.section]
    # An option that one side lacks is not compared: it was introduced later, with a default that means what was done
    # before.
    ours, theirs = _without_fuse(ours), _without_fuse(theirs)
    differ = [name for name in FIXED_OPTIONS if name in ours and name in theirs and ours[name] != theirs[name]]
    reasons = [f"{args.section}.{name} is {ours[name]!r}, there {theirs[name]!r}" for name in differ]
    recorded = theirs.get("optimizer", args.optimizer)
    if _moments_of(recorded) != _moments_of(args.optimizer):
        reasons.append(f"{args.section}.optimizer is {args.optimizer!r}, there {recorded!r}")
    # Before workers start there is no task, hence no facts; the workers compare them again.
    reasons += [f"{words} is {facts[name]!r}, there {manifest[name]!r}" for name, words in FIXED_FACTS.items()
                if name in facts and name in manifest and facts[name] != manifest[name]]  # fmt: skip
    if reasons:
        raise mismatch_error(checkpoint, "; ".join(reasons))


def _without_fuse(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options without the part of `lora` that says how a checkpoint is exported, and not what it holds."""
    lora = options.get("lora")
    return {**options, "lora": {name: value for name, value in lora.items() if name != "fuse"}} if lora else {**options}


def _moments_of(optimizer: str) -> str:
    """The optimiser whose state another one takes over: 8-bit moments are stored as those of AdamW."""
    return "adamw" if optimizer == "adamw8bit" else optimizer


def refuse_finished(
    checkpoint: Checkpoint, manifest: Mapping[str, Any], store: Store, run: str, args: TrainingArgs
) -> None:
    """Raise ConfigError if a checkpoint of another run is at the last step already: nothing would be left to train."""
    # A run's own checkpoint at the last step is no mistake: the command was merely given again, and has nothing to do.
    own = checkpoint.store == store and checkpoint.path.startswith(f"checkpoints/{run}/{args.kind}/")
    if int(manifest["step"]) >= args.steps and not own:
        raise ConfigError(
            f"{args.section}.resume names a checkpoint of step {manifest['step']}, and {args.section}.steps="
            f"{args.steps} leaves nothing to train; raise {args.section}.steps"
        )


def mismatch_error(checkpoint: Checkpoint, reasons: str) -> ModelError:
    """The error of a checkpoint that belongs to another network or objective."""
    return ModelError(
        f"checkpoint {checkpoint.uri} is of another network or objective ({reasons}); "
        "set it back, or train under another name (run=...)"
    )
