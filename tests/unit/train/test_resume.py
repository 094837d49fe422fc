"""Which checkpoint a run resumes from: its own, then a named one; damaged ones are passed over."""

from __future__ import annotations

import json

import pytest

from emoji_ldm.dataset import checkpoints
from emoji_ldm.errors import ModelError
from emoji_ldm.train.metrics import training_metrics
from emoji_ldm.train.training_args import build_training_args
from ray_jobs.execution import trainer
from tests.unit.train import tiny
from tests.unit.train.tiny import losses, only, run, store_of


def test_a_finished_training_is_compared_too(trained):
    for options, error in ((("train.prediction_type=epsilon",), "prediction_type"), (("latents.vae=/other",), None)):
        config = tiny.config(*options)
        if error:
            with pytest.raises(ModelError, match=error):
                trainer._finished(store_of(trained), config, build_training_args(config, "train"))
        else:
            assert (
                trainer._finished(store_of(trained), config, build_training_args(config, "train")) is None
            )  # workers look


@pytest.mark.slow
def test_a_named_checkpoint_is_used_if_the_runs_own_are_damaged(trained):
    before, source = losses(trained), checkpoints.complete_checkpoints(store_of(trained), "tiny", "unet")[0].path
    run(trained, "run=second", f"train.resume={source}")
    for path in (trained / "store" / "checkpoints" / "second").rglob("*.safetensors"):
        path.unlink()
    run(trained, "run=second", f"train.resume={source}")
    lines = training_metrics.read_log(store_of(trained), "second")
    assert [(line["step"], line["loss"]) for line in lines] == before
    assert "goes on from step 4" in json.dumps(lines)


def test_a_missing_named_checkpoint_does_not_matter_to_a_run_with_own_ones(trained):
    assert run(trained, "train.resume=checkpoints/gone/unet/step-1", "train.steps=9")["steps"] == 9


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "mark", "manifest", "log"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_says_so(damage, trained):
    before = losses(trained)
    pattern = {"mark": "state/*.json", "manifest": "COMPLETE", "log": "state/losses.jsonl"}.get(damage, "state/*.safe*")
    path = only(trained, pattern)
    data = bytearray(path.read_bytes())
    data[-9] ^= 16
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-4] if damage == "truncated" else b"{" if damage in ("manifest", "log") else data)
    run(trained)
    assert losses(trained) == before
    told = [note for line in training_metrics.read_log(store_of(trained), "tiny") for note in line.get("notes", [])]
    assert len(told) == 1
    assert "is damaged" in told[0] or "is not what was written" in told[0]
    assert "goes on from step 4" in told[0]


@pytest.mark.slow
def test_a_cleaned_bucket_is_an_error_not_a_fresh_start(trained):
    store = store_of(trained)
    for checkpoint in checkpoints.complete_checkpoints(store, "tiny", "unet"):
        store.delete(checkpoint.path)
    with pytest.raises(ModelError, match=r"reached checkpoint step-00000008.*train\.resume=.*LATEST"):
        run(trained)
    store.remove("checkpoints", "tiny", "unet", checkpoints.LATEST_FILE)
    assert run(trained)["steps"] == 8


def test_no_whole_checkpoint_is_an_error_too(trained):
    for path in (trained / "store" / "checkpoints").rglob("*.safetensors"):
        path.unlink()
    with pytest.raises(ModelError, match=r"no checkpoint of run 'tiny' is whole .*is missing.*is missing"):
        run(trained)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["path", "uri", "elsewhere"])
def test_a_run_without_checkpoints_resumes_from_a_named_one(form, trained, tmp_path_factory):
    before, first = losses(trained), checkpoints.complete_checkpoints(store_of(trained), "tiny", "unet")[0]
    if form == "elsewhere":
        other = tmp_path_factory.mktemp("other")
        run(other, f"train.resume={first.uri}")
        assert losses(other) == before
        return
    name = first.path if form == "path" else first.uri
    run(trained, "run=second", f"train.resume={name}")
    lines = training_metrics.read_log(store_of(trained), "second")
    assert [(line["step"], line["loss"]) for line in lines] == before


def test_resume_that_names_nothing_is_an_error(tmp_path):
    with pytest.raises(ModelError, match=r"train\.resume='checkpoints/no/unet/step-1' is no complete checkpoint"):
        run(tmp_path, "train.resume=checkpoints/no/unet/step-1")


@pytest.mark.parametrize("option", ["prediction_type=epsilon", "ema_widths=[0.05]", "block_out_channels=[8,32]"])
def test_another_network_objective_or_average_is_an_error_that_names_the_option(option, trained):
    with pytest.raises(ModelError, match=f"train.{option.partition('=')[0]} is "):
        run(trained, f"train.{option}", "train.steps=9")
