"""Real batchers on the tiny model of 16 px."""

import time

import pytest

WAIT_S = 60


@pytest.fixture(scope="session")
def images_alone(small_model):
    """{request: its pixels} of `mixed_requests`, generated offline."""
    from emoji_ldm.generate.offline_sampler import OfflineSampler
    from tests.generation_requests import mixed_requests

    requests = mixed_requests()
    images = OfflineSampler(small_model, 4)(requests)
    return {request: image.tobytes() for request, image in zip(requests, images, strict=True)}


@pytest.fixture(scope="session")
def shared_batcher(small_model):
    """A deterministic batcher that serves several tests."""
    batcher = build(small_model)
    yield batcher
    batcher.close()


@pytest.fixture
def make_batcher(small_model):
    """Builds batchers of a test's own, which are closed afterwards."""
    batchers = []

    def make(**options):
        batchers.append(build(small_model, **options))
        return batchers[-1]

    yield make
    for batcher in batchers:
        batcher.close()


def build(model, **options):
    from emoji_ldm.generate.continuous_batching.batcher import ContinuousBatcher

    options = {"batch_size": 4, "deterministic": True, "max_queued": 1000, "encode_image": raw_pixels, **options}
    return ContinuousBatcher(model, **options)


def raw_pixels(pixels, request, model):
    """Stands in for PNG encoding."""
    return pixels.tobytes()


@pytest.fixture
def becomes_idle():
    """Waits until a batcher holds nothing any more; returns whether that came."""

    def wait(batcher):
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            stats = batcher.stats()
            gauges = [*stats.queued.values(), *stats.running.values(), *stats.row_steps.values(), stats.finishing]
            if not any(gauges) and not batcher._state.pending:
                return True
            time.sleep(0.01)
        return False

    return wait
