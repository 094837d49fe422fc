"""The caption actor without its cluster: what it does when its engine dies."""

import os
from types import SimpleNamespace

import pytest
import ray

from emoji_ldm.caption.engine_protocol import EngineLostError
from emoji_ldm.config import CaptionConfig
from emoji_ldm.errors import ModelError
from ray_jobs.workers.caption_worker import CaptionWorker
from tests.emoji_images import blobs, image_rows
from tests.fake_caption_engines import FakeEngine


def worker():
    def say(request):
        raise EngineLostError("CUDA error")

    return CaptionWorker(CaptionConfig(), build=lambda config: FakeEngine(say))


def restarted(monkeypatch, answer):
    context = SimpleNamespace(was_current_actor_reconstructed=answer)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)


def test_the_process_of_a_dead_engine_ends_so_that_ray_starts_another(monkeypatch):
    restarted(monkeypatch, False)
    monkeypatch.setattr(os, "_exit", lambda code: (_ for _ in ()).throw(SystemExit(code)))
    with pytest.raises(SystemExit):
        worker()(image_rows(blobs(2)))


def test_an_engine_that_dies_in_place_of_a_dead_one_ends_the_job_with_its_reason(monkeypatch):
    restarted(monkeypatch, True)
    with pytest.raises(ModelError, match="both died, the latter of: CUDA error"):
        worker()(image_rows(blobs(2)))
