"""Caption engines by name."""

import pytest

from emoji_ldm.caption.engine_registry import check_engine, load_engine
from emoji_ldm.caption.metadata import MetadataEngine
from emoji_ldm.config import CaptionConfig
from emoji_ldm.errors import ConfigError, ModelError


def test_vllm_is_checked_for_the_package_and_the_gpu(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'emoji-ldm\[vllm\]'"):
        check_engine(CaptionConfig(engine="vllm", gpus_per_worker=1))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(ConfigError, match=r"caption\.gpus_per_worker=1"):
        check_engine(CaptionConfig(engine="vllm"))


def test_qwen_uses_one_gpu_per_worker():
    with pytest.raises(ConfigError, match=r"gpus_per_worker=2: qwen2.5-vl uses one GPU per worker"):
        check_engine(CaptionConfig(engine="qwen2.5-vl", gpus_per_worker=2))


def test_the_metadata_engine_needs_no_model():
    check_engine(CaptionConfig())
    assert isinstance(load_engine(CaptionConfig()), MetadataEngine)
