"""Loaded models without weights, whose ticks take a time that is given: for tests of scheduling without threads."""

from types import SimpleNamespace

from emoji_ldm.generate.continuous_batching.batch_bucket import PendingImage
from emoji_ldm.generate.latency_model import LatencyProfile
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.generate.warmup import LoadedModel

SHAPE = (4, 8, 8)


class FakeEngine:
    """Obeys the part of DenoisingEngine's contract that scheduling uses, for up to 8 rows."""

    def __init__(self):
        self.evicted = []

    def num_unet_rows(self, num_rows, num_guided, shape):
        return num_rows + num_guided

    def max_rows(self, shape):
        return 8

    def evict(self, shape):
        self.evicted.append(shape)


def fake_model(max_batch=4):
    """A model whose ticks take a second, however many rows they have."""
    encoder_decoder = SimpleNamespace(model=SimpleNamespace(latent_shape=SHAPE), is_guided=lambda request: True)
    return LoadedModel(FakeEngine(), encoder_decoder, LatencyProfile({1: 1.0, 2 * max_batch: 1.0}), max_batch)


def pending_image(bucket, steps=10, tenant="", **fields):
    """A guided image that is in no queue yet."""
    return PendingImage(GenerationRequest("a", guidance_scale=3.0), bucket, steps, tenant, **fields)


def add_ready(scheduler, model, *, bulk=False, side=8, count=1, tenant=""):
    """Add images of ten steps that are encoded and wait for a slot."""
    bucket = scheduler.bucket(model, (4, side, side))
    images = [pending_image(bucket, tenant=tenant, bulk=bulk) for _ in range(count)]
    bucket.ready[bulk] += images
    return images
