"""`emoji-ldm train --export`: a checkpoint as a diffusers folder here, and on a hub; `--tag`: a name for it.

Neither needs a cluster.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from emoji_ldm.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from emoji_ldm.config import Config

HUB_TOKEN = "HF_TOKEN"


def add_export(command: argparse.ArgumentParser) -> None:
    """The options of the export."""
    group = command.add_argument_group("what was trained, exported or named (trains nothing)")
    group.add_argument(
        "--export",
        metavar="DIR",
        help="write a folder that DiffusionPipeline.from_pretrained opens (its README.md says how)",
    )
    group.add_argument("--weights", choices=("ema", "ema2", "raw"), default="ema",
                       help="averaged (default), averaged over the second of train.ema_widths, or raw")  # fmt: skip
    group.add_argument("--checkpoint", default="", metavar="PATH|URI", help="of the store; by default the run's newest")
    group.add_argument("--tag", default="", metavar="NAME", help="give that checkpoint a name, or move the name to it: "
                       "then serve.checkpoint=tag:NAME means it, and it is never pruned")  # fmt: skip
    group.add_argument("--push", default="", metavar="OWNER/NAME",
                       help=f"upload the folder to this model on the hub, with the token in {HUB_TOKEN}")  # fmt: skip


def run(arguments: argparse.Namespace, config: Config, section: str) -> int:
    """Export, and push if asked; prints what was written.

    Raises:
        ConfigError: The folder holds something else, or there is no token.
        ModelError: There is no such checkpoint.
        StoreError: The hub refuses.
    """
    from emoji_ldm.progress import print_summary
    from emoji_ldm.train.checkpoint_export import ExportRequest, export_checkpoint

    token = _token(arguments.push)
    folder = Path(arguments.export).expanduser()
    with tempfile.TemporaryDirectory(prefix="emoji-ldm-") as cache:
        wanted = ExportRequest(section, arguments.weights, arguments.checkpoint)
        facts = export_checkpoint(config, wanted, folder, Path(cache))
    rows = {**facts, "bytes": f"{facts['bytes']:,}", "folder": str(folder)}
    if arguments.push:
        rows["hub"] = _push(folder, arguments.push, token)
    print_summary("export", rows, f"emoji-ldm generate 'a happy blob' generate.checkpoint={folder}"
            if section == "train" else f"emoji-ldm latents latents.vae={folder}")  # fmt: skip
    return 0


def tag(arguments: argparse.Namespace, config: Config) -> int:
    """Name a checkpoint of the U-Net; prints what has the name now. ModelError if there is no such checkpoint."""
    from emoji_ldm.dataset import checkpoint_aliases, checkpoints
    from emoji_ldm.errors import ModelError
    from emoji_ldm.progress import print_summary
    from emoji_ldm.store import Store

    store = Store(config.store)
    path: str = arguments.checkpoint.rstrip("/").removeprefix(store.uri).strip("/")
    path = path or checkpoints.newest_checkpoint(store, config.run, "unet").path
    if not store.exists(path, checkpoints.MANIFEST_FILE) or path.split("/")[2:3] != ["unet"]:
        raise ModelError(f"{arguments.checkpoint!r} is no complete checkpoint of a model in {store.uri}")
    checkpoint_aliases.set_alias(store, arguments.tag, path)
    print_summary(
        "tag", {"name": arguments.tag, "checkpoint": path}, f"emoji-ldm serve serve.checkpoint=tag:{arguments.tag}"
    )
    return 0


def check(arguments: argparse.Namespace) -> None:
    """Refuse options that mean nothing without --export or --tag, and these two together."""
    if arguments.export and arguments.tag:
        raise ConfigError("--export and --tag are two commands; give one of them")
    given = ["--push"] if arguments.push else []
    given += ["--weights"] if arguments.weights != "ema" else []
    if given and not arguments.export:
        raise ConfigError(f"{given[0]} goes with --export DIR")
    if arguments.checkpoint and not (arguments.export or arguments.tag):
        raise ConfigError("--checkpoint goes with --export DIR or --tag NAME")


def _token(push: str) -> str:
    """Asked for before anything is written."""
    if push and not os.environ.get(HUB_TOKEN):
        raise ConfigError(f"--push {push} needs a token with write access in the environment variable {HUB_TOKEN}")
    return os.environ.get(HUB_TOKEN, "")


def _push(folder: Path, name: str, token: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        api = HfApi(token=token)
        api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Export")
    except HFValidationError as error:
        raise ConfigError(f"--push {name}: {error}") from None
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        text = " ".join(str(error).split())[:200]
        raise StoreError(f"{folder} is written, but the hub did not take it as {name}: {text}") from None
    return name
