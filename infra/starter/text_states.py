"""Token states of all captions from the packaged MiniLM: states.npy `(tokens, 384)` float16 unpadded, texts.json."""

from __future__ import annotations

import json
import time

import numpy as np
import torch

from emoji_ldm.latents.text_encoder import load_text_encoder
from infra.starter.paths import DATA

MAX_TOKENS = 32
BATCH = 64


def main() -> None:
    """Encode every different caption once, sorted by length, so that little padding is computed."""
    torch.set_num_threads(1)
    captions = {caption for row in json.loads((DATA / "records.json").read_text()) for caption in row["captions"]}
    texts = ["", *sorted(captions - {""}, key=lambda text: (len(text), text))]
    encoder = load_text_encoder("minilm", max_tokens=MAX_TOKENS, device="cpu")
    states, start = [], time.monotonic()
    with torch.autocast("cpu", torch.bfloat16):
        for first in range(0, len(texts), BATCH):
            states += [state.astype(np.float16) for state in encoder.encode(texts[first : first + BATCH])]
            if first // BATCH % 100 == 0:
                print(first, len(texts), f"{time.monotonic() - start:.0f} s", flush=True)
    np.save(DATA / "states.npy", np.concatenate(states))
    ends = np.cumsum([len(state) for state in states]).tolist()
    (DATA / "texts.json").write_text(json.dumps({"texts": texts, "ends": ends}))


if __name__ == "__main__":
    main()
