"""The training images of the autoencoder, as they are read from the store."""

import tracemalloc

import numpy as np

from emoji_ldm.dataset.table import Table
from emoji_ldm.latents.vae import to_square
from emoji_ldm.schemas import IMAGES
from emoji_ldm.store import Store
from emoji_ldm.train.tasks.autoencoder_task import load_pixels
from tests.emoji_images import blobs, fill_images


def test_images_are_read_in_the_order_of_their_ids_and_held_in_memory_once(tmp_path):
    store = Store(str(tmp_path))
    fill_images(store, blobs(24))
    tracemalloc.start()
    pixels, version = load_pixels(store, 128)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * pixels.nbytes
    rows = Table(store, IMAGES).read(["image_id", "image"]).to_pylist()
    rows.sort(key=lambda row: row["image_id"])
    assert (pixels == np.stack([to_square(row["image"]["bytes"], 128) for row in rows])).all()
    assert version == Table(store, IMAGES).version
