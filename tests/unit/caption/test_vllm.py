"""The vllm engine against a fake of vLLM's interface: the package itself needs a GPU and was never run here."""

import io

import pytest
from PIL import Image

from emoji_ldm.caption.batching import CaptionBatcher
from emoji_ldm.caption.engine_protocol import CaptionInput, CaptionRequest, EngineLostError
from emoji_ldm.caption.engine_registry import check_engine, load_engine
from emoji_ldm.caption.qwen import QwenEngine
from emoji_ldm.caption.vllm import engine_options
from emoji_ldm.config import CaptionConfig
from tests import fake_vllm
from tests.emoji_images import blobs, image_rows


@pytest.fixture(scope="module")
def config(qwen):
    return CaptionConfig(engine="vllm", model=str(qwen), gpus_per_worker=1, max_new_tokens=6, size_px=56)


@pytest.fixture
def engine(config, monkeypatch):
    fake_vllm.install(monkeypatch)
    check_engine(config)
    return load_engine(config)


def requests(num):
    pictures = [Image.open(io.BytesIO(picture.data)).convert("RGBA") for picture in blobs(num)]
    return [
        CaptionRequest(CaptionInput(image, f"title {place}", ()), str(place)) for place, image in enumerate(pictures)
    ]


def test_both_engines_give_the_same_greedy_answers_to_the_same_prompts_and_pixels(engine, config):
    other = QwenEngine(config.model_copy(update={"engine": "qwen2.5-vl", "gpus_per_worker": 0}))
    asked = requests(3)
    ours, theirs = engine.answer(engine.prepare(asked)), other.answer(other.prepare(asked))
    assert ours == theirs
    assert any(answer.text for answer in ours)


def test_a_shard_is_one_call_with_each_requests_own_seed_and_temperature(engine, config):
    asked = requests(1)[0]
    later = CaptionRequest(asked.input, asked.image_id, number=1, attempt=1)
    _, (greedy, sampled) = engine.prepare([asked, later])
    assert (greedy.temperature, sampled.temperature, sampled.seed) == (0.0, 1.0, later.seed)
    assert (sampled.top_k, sampled.max_tokens, sampled.repetition_penalty) == (50, 6, 1.0)
    CaptionBatcher(engine, config.model_copy(update={"max_retries": 1})).run(image_rows(blobs(5)))
    assert engine.model.calls == [5, 5]


def test_a_dead_engine_is_told_from_a_bad_picture(engine):
    engine.model.dead = True
    with pytest.raises(EngineLostError, match="EngineCore"):
        engine.answer(engine.prepare(requests(1)))


def test_the_model_gets_the_visual_budget_and_its_share_of_the_gpus():
    options = engine_options(CaptionConfig(engine="vllm", gpus_per_worker=2, batch_size=256))
    assert options["mm_processor_kwargs"] == {"size": {"shortest_edge": 224 * 224, "longest_edge": 224 * 224}}
    assert (options["max_num_seqs"], options["tensor_parallel_size"]) == (256, 2)
    assert engine_options(CaptionConfig(engine="vllm", gpus_per_worker=0.5))["gpu_memory_utilization"] == 0.45
    assert "tensor_parallel_size" not in engine_options(CaptionConfig(engine="vllm", gpus_per_worker=1))
