"""What is said where a training goes on."""

import re

import pytest

from emoji_ldm.train.metrics import training_metrics
from emoji_ldm.train.resume_note import resume_note
from emoji_ldm.train.training_args import build_training_args
from tests.unit.train import tiny
from tests.unit.train.tiny import newest, run, store_of


def said(folder, step, damaged="", **options):
    config = tiny.config(*(f"{name}={value}" for name, value in options.items()))
    return resume_note(tiny.run_context(config, folder), build_training_args(config, "train"), step, damaged)


def test_nothing_is_said_of_a_training_that_begins(tmp_path):
    assert said(tmp_path, 0) == ""


def test_the_checkpoint_and_the_work_that_an_interruption_cost_are_named(trained):
    name = newest(trained).path.rpartition("/")[2]
    assert said(trained, 8) == f"goes on from step 8 ({name})"
    text = said(trained, 4)
    pattern = r"goes on from step 4 \(step-00000004-\w{8}\); 4 steps after it are done again \(\d s of work\)"
    assert re.fullmatch(pattern, text)


def test_an_unfinished_checkpoint_is_named_and_a_damaged_one_not_twice(trained):
    name = newest(trained).path.rpartition("/")[2]
    store_of(trained).remove(newest(trained).path, "COMPLETE")
    assert f"; {name} is unfinished and not used" in said(trained, 4)
    assert "unfinished" not in said(trained, 4, f"checkpoint {name} is damaged: cut; goes on from step 4")
    assert said(trained, 0).startswith(f"starts from step 0; {name} is unfinished")


@pytest.mark.slow
def test_a_resumed_run_says_it_with_its_first_line(trained):
    run(trained, "train.steps=10")
    lines = training_metrics.read_log(store_of(trained), "tiny")
    assert [line["step"] for line in lines if "notes" in line] == [9]
    assert lines[8]["notes"][0].startswith("goes on from step 8 (step-00000008-")
