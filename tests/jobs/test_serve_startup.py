"""The application of the service before it runs: what is refused, and how a manifest names and builds it."""

import socket

import pytest

from emoji_ldm.errors import ConfigError, ModelError, StoreError, UntrainedError
from tests.deployed_service import tiny_config


@pytest.mark.slow
def test_a_port_in_use_is_one_line_before_anything_starts(tmp_path, tiny_pipeline):
    from ray_jobs import serve

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match=r"serve\.port"):
            serve.run(tiny_config(tmp_path, tiny_pipeline, port=taken.getsockname()[1]))


@pytest.mark.slow
def test_what_cannot_be_served_is_one_line_before_anything_starts(tmp_path, tiny_pipeline, no_starter):
    from ray_jobs import serve

    with pytest.raises(ModelError, match="emoji-ldm train"):
        serve.run(tiny_config(tmp_path, ""))
    with pytest.raises(ModelError, match=r"no checkpoint .* has the alias 'live'"):
        serve.run(tiny_config(tmp_path, "alias:live"))
    with pytest.raises(ConfigError, match=r"serve\.min_replicas=3"):
        serve.run(tiny_config(tmp_path, tiny_pipeline, min_replicas=3))
    with pytest.raises(ConfigError, match=r"serve\.models\.tiny"):
        serve.run(tiny_config(tmp_path, tiny_pipeline, models={"tiny": str(tiny_pipeline)}))
    with pytest.raises(ModelError, match=r"serve\.loras\.blobs=nowhere"):
        serve.run(tiny_config(tmp_path, tiny_pipeline, loras={"blobs": "nowhere"}))
    with pytest.raises(ConfigError, match=r"serve\.keys=nowhere.*emoji-ldm keys add"):
        serve.run(tiny_config(tmp_path, tiny_pipeline, keys="nowhere"))


def test_checkpoints_are_resolved_once(tmp_path, tiny_pipeline, monkeypatch):
    """Between two looks the newest checkpoint may change, and what is said about it would be said twice."""
    from ray_jobs import serve as module

    resolved, started = [], []
    monkeypatch.setattr(module, "checked_models", lambda config: resolved.append(config) or ["a model"])
    monkeypatch.setattr(module, "application", lambda config, models: models)
    monkeypatch.setattr(module.ray_runtime, "connect", lambda config: None)
    monkeypatch.setattr(module, "_with_default_replicas", lambda config, is_local: config.model_copy())
    monkeypatch.setattr(module, "_require", lambda config: None)
    monkeypatch.setattr(module, "_stop", lambda: None)
    monkeypatch.setattr(module.signal, "signal", lambda *_: None)

    def start(app, host, port):
        started.append(app)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "start", start)
    module.run(tiny_config(tmp_path, tiny_pipeline))
    assert len(resolved) == 1 and started == [["a model"]]


@pytest.mark.slow
def test_a_manifest_names_the_config_file_and_overrides(tmp_path, tiny_pipeline):
    from ray_jobs.serve import build_app

    (tmp_path / "config.yaml").write_text(tiny_config(tmp_path, tiny_pipeline).to_yaml())
    args = {"config": str(tmp_path / "config.yaml"), "serve.anonymous": "true"}
    assert build_app({**args, "serve.max_replicas": "3"})
    with pytest.raises(ConfigError, match=r"serve\.min_replicas=9"):
        build_app({**args, "serve.min_replicas": "9"})


@pytest.mark.slow
def test_the_application_of_a_manifest_needs_keys_whatever_the_address_of_its_configuration_is(tmp_path, tiny_pipeline):
    """Ray's proxies listen where the manifest says."""
    from ray_jobs.serve import build_app

    (tmp_path / "config.yaml").write_text(tiny_config(tmp_path, tiny_pipeline).to_yaml())
    with pytest.raises(ConfigError, match="emoji-ldm keys add"):
        build_app({"config": str(tmp_path / "config.yaml"), "serve.host": "127.0.0.1"})


def test_the_application_of_a_manifest_waits_for_the_first_checkpoint(monkeypatch):
    """Serve builds once: an application that failed before `train` was done would stay failed."""
    from ray_jobs import serve as module

    builds = [UntrainedError("run 'tiny' has no unet checkpoint"), StoreError("no bucket"), "the application"]

    def build(config):
        made = builds.pop(0)
        if isinstance(made, Exception):
            raise made
        return made

    monkeypatch.setattr(module, "checked_models", build)
    monkeypatch.setattr(module, "application", lambda config, models: models)
    monkeypatch.setattr(module, "CHECKPOINT_POLL_S", 0.0)
    assert module.build_app({"serve.checkpoint": "alias:live"}) == "the application"
    monkeypatch.setattr(module, "STORE_SETUP_TIMEOUT_S", -1.0)
    builds[:] = [StoreError("access is refused")]
    with pytest.raises(StoreError):
        module.build_app({"serve.checkpoint": "alias:live"})


@pytest.mark.parametrize(("reload", "looks"), [("null", 3), ("5", 0)])
def test_the_starter_stands_in_for_a_first_checkpoint_only_if_it_is_replaced_later(monkeypatch, reload, looks):
    from ray_jobs import serve as module

    answers = [UntrainedError("run 'default' has no unet checkpoint")] * 2 + ["a checkpoint"]
    looked = []

    def newest(*_):
        looked.append(answers[len(looked)])
        if isinstance(looked[-1], Exception):
            raise looked[-1]

    monkeypatch.setattr(module, "newest_checkpoint", newest)
    monkeypatch.setattr(module, "checked_models", lambda config: [])
    monkeypatch.setattr(module, "application", lambda config, models: "the application")
    monkeypatch.setattr(module, "CHECKPOINT_POLL_S", 0.0)
    assert module.build_app({"serve.reload_s": reload}) == "the application"
    assert len(looked) == looks
