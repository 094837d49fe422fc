"""What a replica draws with, and what its pictures say they came from."""

from emoji_ldm.config import build
from emoji_ldm.generate.checkpoint_resolver import LORA_FILE, lora_key
from ray_jobs.serving import model_registry
from ray_jobs.serving.model_registry import ModelLoader, ServedModel


def config(tmp_path, **serve):
    return build({"store": str(tmp_path / "store"), "serve": serve}, where="test")


def test_a_new_replica_starts_with_what_was_settled_though_the_tag_has_gone(tmp_path):
    found = ModelLoader(config(tmp_path, reload_s=1), ServedModel("live", "alias:live", "file:///settled", None))
    assert found.uri == "file:///settled"


def test_weights_that_were_loaded_but_not_taken_are_tried_again(tmp_path, tiny_pipeline):
    found = ModelLoader(config(tmp_path), ServedModel("tiny", str(tiny_pipeline), str(tiny_pipeline), None))
    found.uri = "former"
    found.load(str(tiny_pipeline))
    assert found.uri == "former"  # the replica says so itself once it draws with them


def test_a_picture_with_an_adapter_names_the_data_of_its_own_weights(tmp_path, tiny_pipeline, monkeypatch):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / LORA_FILE).write_bytes(b"weights")
    versions = iter([{"images": 1}, {"images": 2}])
    monkeypatch.setattr(model_registry, "data_versions", lambda store, uri: next(versions))
    found = ModelLoader(config(tmp_path, loras={"flat": str(folder)}),
                    ServedModel("tiny", str(tiny_pipeline), str(tiny_pipeline), None))  # fmt: skip
    model = found.load()
    monkeypatch.setattr("emoji_ldm.generate.pipeline_loader.load_model", lambda *_: _Other(model))
    found.load()
    assert found._versions[lora_key(model.key, folder)] == {"images": 1}


class _Other:
    key = "other"

    def __init__(self, model):
        self.model = model
