"""`emoji-ldm train --export` writes a checkpoint as a diffusers folder, `--push` uploads it, `--alias` names it.

None of them trains or needs a cluster.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from emoji_ldm.config import Config
from emoji_ldm.dataset import checkpoint_aliases, checkpoints
from emoji_ldm.errors import ConfigError, ModelError, StoreError
from emoji_ldm.progress import print_summary
from emoji_ldm.store import Store

# The variable that huggingface_hub itself reads. A token on the command line would stay in the shell's history.
HUB_TOKEN = "HF_TOKEN"


@dataclass(frozen=True)
class CheckpointOptions:
    """The options of `train` that train nothing; empty texts are options that were not given."""

    export: str  # folder to write
    weights: str  # ema, ema2 or raw
    checkpoint: str  # path or URI in the store
    alias: str
    push: str  # OWNER/NAME on the hub

    def trains_nothing(self) -> bool:
        """Tell whether to export or name a checkpoint rather than to train.

        Raises:
            ConfigError: An option has no effect without --export or --alias, or both of these are given.
        """
        if self.export and self.alias:
            raise ConfigError("--export and --alias are two commands; give one of them")
        # Options that would have no effect are refused: somebody who forgets --export would otherwise start a training.
        needs_export = ["--push"] if self.push else []
        needs_export += ["--weights"] if self.weights != "ema" else []
        if needs_export and not self.export:
            raise ConfigError(f"{needs_export[0]} goes with --export DIR")
        if self.checkpoint and not (self.export or self.alias):
            raise ConfigError("--checkpoint goes with --export DIR or --alias NAME")
        return bool(self.export or self.alias)


def export_or_alias(config: Config, stage: str, options: CheckpointOptions) -> int:
    """Do what the options say; prints what was written or named.

    Raises:
        ConfigError: The folder holds something else, there is no token, or the autoencoder shall get an alias.
        ModelError: There is no such checkpoint.
        StoreError: The hub refuses.
    """
    if options.export:
        _export(config, stage, options)
    elif stage != "train":
        raise ConfigError(f"train --alias does not take {stage!r}: only the diffusion model's checkpoints have aliases")
    else:
        _alias(config, options)
    return 0


def _export(config: Config, stage: str, options: CheckpointOptions) -> None:
    from emoji_ldm.train.checkpoint_export import export_checkpoint
    from emoji_ldm.train.export_description import ADAPTER_FILE, ExportRequest

    # Asked for first: an export may take minutes.
    token = _hub_token(options.push)
    folder = Path(options.export).expanduser()
    # Checkpoints in S3 are downloaded there first, and are of no use after the export.
    with tempfile.TemporaryDirectory(prefix="emoji-ldm-") as cache:
        request = ExportRequest(stage, options.weights, options.checkpoint)
        facts = export_checkpoint(config, request, folder, Path(cache))
    rows = {**facts, "bytes": f"{facts['bytes']:,}", "folder": str(folder)}
    if options.push:
        rows["hub"] = _push(folder, options.push, token)
    train_next = f"emoji-ldm generate 'a happy blob' generate.checkpoint={folder}"
    if (folder / ADAPTER_FILE).is_file():
        train_next = f"emoji-ldm generate 'a happy blob' generate.checkpoint={config.train.init} generate.lora={folder}"
    print_summary("export", rows, train_next if stage == "train" else f"emoji-ldm latents latents.vae={folder}")


def _alias(config: Config, options: CheckpointOptions) -> None:
    store = Store(config.store)
    # Both `s3://bucket/emoji/checkpoints/...`, as it is printed, and the path below the store are accepted.
    path = options.checkpoint.rstrip("/").removeprefix(store.uri).strip("/")
    path = path or checkpoints.newest_checkpoint(store, config.run, "unet").path
    # The manifest is written last, so its existence means that the checkpoint is complete. The path is
    # checkpoints/<run>/<kind>/<step>.
    if not store.exists(path, checkpoints.MANIFEST_FILE) or path.split("/")[2:3] != ["unet"]:
        raise ModelError(f"{options.checkpoint!r} is no complete checkpoint of a model in {store.uri}")
    checkpoint_aliases.set_alias(store, options.alias, path)
    facts = {"name": options.alias, "checkpoint": path}
    print_summary("alias", facts, f"emoji-ldm serve serve.checkpoint=alias:{options.alias}")


def _hub_token(push: str) -> str:
    """Return the token of the hub; ConfigError if a push needs one, raised before anything is written."""
    if push and not os.environ.get(HUB_TOKEN):
        raise ConfigError(f"--push {push} needs a token with write access in the environment variable {HUB_TOKEN}")
    return os.environ.get(HUB_TOKEN, "")


def _push(folder: Path, name: str, token: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        api = HfApi(token=token)
        # Also where the repository exists: a second push adds a commit.
        api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Export")
    except HFValidationError as error:
        raise ConfigError(f"--push {name}: {error}") from None
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        # The hub's errors contain the request id and whole HTML pages.
        text = " ".join(str(error).split())[:200]
        raise StoreError(f"{folder} is written, but the hub refused it as {name}: {text}") from None
    return name
