import io

import pytest
from PIL import Image

from emoji_ldm.caption.captioner import Subject, check
from emoji_ldm.caption.prompt import EXAMPLE
from emoji_ldm.caption.qwen import QwenCaptioner, judge, on_white
from emoji_ldm.config import CaptionConfig
from emoji_ldm.errors import ConfigError, ModelError
from tests.emoji import blobs
from tests.qwen import write_qwen


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_qwen(tmp_path_factory.mktemp("qwen") / "model")


@pytest.fixture(scope="module")
def captioner(folder):
    return QwenCaptioner(config(folder))


@pytest.fixture(scope="module")
def subjects():
    pictures = [Image.open(io.BytesIO(picture.data)).convert("RGBA") for picture in blobs(3)]
    titles = ["cat", "a much longer title of a blob", "wave"]
    return [Subject(image, title, ()) for image, title in zip(pictures, titles, strict=True)]


def config(folder, **changes):
    return CaptionConfig(engine="qwen2.5-vl", model=str(folder), **{"max_new_tokens": 8, **changes})


def test_a_picture_of_224_px_is_64_visual_tokens_and_prompts_are_padded_left(captioner, subjects):
    inputs = captioner.inputs(subjects)
    assert inputs.image_grid_thw.tolist() == [[1, 16, 16]] * 3
    assert (inputs.input_ids == captioner.model.config.image_token_id).sum(dim=1).tolist() == [64] * 3
    assert inputs.attention_mask[:, -1].tolist() == [1, 1, 1]
    assert inputs.attention_mask[0, 0] == 0  # the shortest title


def test_a_small_picture_is_not_enlarged_by_the_processor(folder, subjects):
    small = QwenCaptioner(config(folder, size_px=56))
    assert small.inputs(subjects).image_grid_thw.tolist() == [[1, 4, 4]] * 3


def test_the_title_and_the_form_reach_the_model(captioner, subjects):
    text = captioner.processor.batch_decode(captioner.inputs(subjects).input_ids)[1]
    assert "a much longer title of a blob" in text
    assert "{head shape}" in text


def test_a_batch_says_what_each_picture_alone_says(captioner, subjects):
    alone = [captioner([subject])[0] for subject in subjects]
    assert [caption.text for caption in captioner(subjects)] == [caption.text for caption in alone]


def test_a_random_model_fails_row_by_row_with_reasons(captioner, subjects):
    for caption in captioner(subjects):
        assert caption.reason.split(":")[0] in ("truncated", "empty answer", "not in the asked form")


def test_answers_are_judged():
    good = judge(f'"{EXAMPLE}"\n', ended=True)
    assert (good.text, good.reason, good.attributes["action"]) == (EXAMPLE, "", "waving one hand")
    assert judge(" \n", ended=True).reason == "empty answer"
    assert judge(EXAMPLE, ended=False).reason.startswith("truncated")
    assert judge("I see a blob.", ended=True).reason.startswith("not in the asked form")
    assert "mouth missing" in judge(EXAMPLE.replace(" smiling mouth,", ""), ended=True).reason


def test_transparent_pictures_lie_on_white_in_a_square():
    wide = on_white(Image.new("RGBA", (40, 20), (255, 0, 0, 255)), 56)
    assert (wide.mode, wide.size) == ("RGB", (56, 56))
    assert wide.getpixel((28, 0)) == (255, 255, 255)
    assert wide.getpixel((28, 28)) == (255, 0, 0)


def test_a_missing_model_is_named_with_the_remedy(tmp_path, tiny_pipeline, folder):
    for model in (tmp_path / "nowhere", tiny_pipeline / "text_encoder"):
        with pytest.raises(ModelError, match=r"caption\.engine=metadata"):
            check(config(model))
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(ModelError, match=r"no \*\.safetensors"):
        check(config(tmp_path))


def test_a_size_between_visual_tokens_is_refused(folder):
    with pytest.raises(ConfigError, match="multiple of 28"):
        QwenCaptioner(config(folder, size_px=100))
