import io

import pytest
import torch
from PIL import Image

from emoji_ldm.caption.engine_protocol import CaptionInput, CaptionRequest
from emoji_ldm.caption.engine_registry import check_engine
from emoji_ldm.caption.qwen import GumbelPerRow, QwenEngine, on_white
from emoji_ldm.config import CaptionConfig
from emoji_ldm.errors import ConfigError, ModelError
from tests.emoji_images import blobs


@pytest.fixture(scope="module")
def engine(qwen):
    return QwenEngine(config(qwen))


@pytest.fixture(scope="module")
def requests():
    pictures = [Image.open(io.BytesIO(picture.data)).convert("RGBA") for picture in blobs(3)]
    titles = ["cat", "a much longer title of a blob", "wave"]
    return [
        CaptionRequest(CaptionInput(image, title, ()), title) for image, title in zip(pictures, titles, strict=True)
    ]


def config(folder, **changes):
    return CaptionConfig(engine="qwen2.5-vl", model=str(folder), **{"max_new_tokens": 8, **changes})


def ask(engine, *requests):
    return [answer.text for answer in engine.answer(engine.prepare(requests))]


def test_a_picture_of_224_px_is_64_visual_tokens_and_prompts_are_padded_left(engine, requests):
    inputs = engine.prepare(requests).inputs
    assert inputs.image_grid_thw.tolist() == [[1, 16, 16]] * 3
    assert (inputs.input_ids == engine.model.config.image_token_id).sum(dim=1).tolist() == [64] * 3
    assert inputs.attention_mask[:, -1].tolist() == [1, 1, 1]
    assert inputs.attention_mask[0, 0] == 0  # the shortest title


def test_a_small_picture_is_not_enlarged_by_the_processor(qwen, requests):
    small = QwenEngine(config(qwen, size_px=56))
    assert small.prepare(requests).inputs.image_grid_thw.tolist() == [[1, 4, 4]] * 3


def test_the_title_and_the_form_reach_the_model(engine, requests):
    text = engine.processor.batch_decode(engine.prepare(requests).inputs.input_ids)[1]
    assert "a much longer title of a blob" in text
    assert "{head shape}" in text


def test_a_batch_says_what_each_picture_alone_says_greedy_and_sampled_side_by_side(engine, requests):
    cat, blob, wave = requests
    mixed = [cat, CaptionRequest(blob.input, "blob", attempt=1), CaptionRequest(cat.input, "cat", number=1), wave]
    together = ask(engine, *mixed)
    assert together == [ask(engine, request)[0] for request in mixed]
    assert together[0] != together[2]
    assert not any(answer.finished for answer in engine.answer(engine.prepare(mixed)))


def test_noise_on_the_largest_scores_draws_from_their_softmax():
    scores = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    sampler = GumbelPerRow([CaptionRequest(None, "x", number=1)])  # temperature 0.7
    draws = torch.stack([sampler(None, scores.clone()).argmax() for _ in range(4000)])
    torch.testing.assert_close(draws.bincount(minlength=4) / 4000, (scores[0] / 0.7).softmax(0), atol=0.03, rtol=0)
    greedy = GumbelPerRow([CaptionRequest(None, "x")])
    assert torch.equal(greedy(None, scores.clone()), scores)


def test_transparent_pictures_lie_on_white_in_a_square():
    wide = on_white(Image.new("RGBA", (40, 20), (255, 0, 0, 255)), 56)
    assert (wide.mode, wide.size) == ("RGB", (56, 56))
    assert wide.getpixel((28, 0)) == (255, 255, 255)
    assert wide.getpixel((28, 28)) == (255, 0, 0)


def test_a_missing_model_is_named_with_the_remedy(tmp_path, tiny_pipeline, qwen):
    for model in (tmp_path / "nowhere", tiny_pipeline / "text_encoder"):
        with pytest.raises(ModelError, match=r"caption\.engine=metadata"):
            check_engine(config(model))
    (tmp_path / "config.json").write_bytes((qwen / "config.json").read_bytes())
    with pytest.raises(ModelError, match=r"no \*\.safetensors"):
        check_engine(config(tmp_path))


def test_a_size_between_visual_tokens_is_refused(qwen):
    with pytest.raises(ConfigError, match="multiple of 28"):
        QwenEngine(config(qwen, size_px=100))


def test_one_model_per_gpu_and_one_gpu_per_model(qwen):
    with pytest.raises(ConfigError, match=r"caption\.gpus_per_worker=2: qwen2\.5-vl uses one GPU per worker"):
        check_engine(config(qwen, gpus_per_worker=2))
