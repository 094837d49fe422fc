"""Every setting of a training is a field of the configuration, which `--dry-run` prints."""

import dataclasses

import pytest
import yaml

from emoji_ldm.config import AutoencoderConfig, Config, TrainConfig, load
from emoji_ldm.errors import ConfigError
from emoji_ldm.train.training_args import TrainingArgs, build_training_args

FIELDS = {field.name for field in dataclasses.fields(TrainingArgs)} - {"section", "kind"}
NOT_IN_AUTOENCODER = {"sample_every", "validate_every"}  # it has neither sample grids nor validation images


@pytest.mark.parametrize(("section", "missing"), [("train", set()), ("autoencoder", NOT_IN_AUTOENCODER)])
def test_each_setting_is_printed_with_its_section_and_obeyed(section, missing):
    printed = yaml.safe_load(Config().to_yaml())[section]
    assert FIELDS - printed.keys() == missing
    args = build_training_args(Config(), section)
    for name in FIELDS - missing:
        value = getattr(args, name)
        assert (list(value) if isinstance(value, tuple) else value) == printed[name]


def test_the_autoencoder_keeps_the_defaults_that_it_was_always_trained_with():
    args = build_training_args(Config(), "autoencoder")
    assert (args.warmup_steps, args.lr_schedule, args.lr_end) == (20, "cosine", 0.1)
    assert (args.grad_clip, args.weight_decay, args.adam_betas) == (1.0, 1e-4, (0.9, 0.99))
    assert (args.ema_decay, args.ema_widths, args.spike_factor) == (0.99, (), None)
    assert (args.optimizer, args.precision, args.zero_stage) == ("adamw", "fp32", 0)
    assert (args.micro_batch_size, args.keep_last, args.log_every) == (None, 2, 10)
    assert (args.sample_every, args.validate_every) == (None, None)


def test_both_sections_survive_failures_and_preemptions_alike_unless_set():
    names = ("max_failures", "max_preemptions", "keep_last", "resume")
    assert [getattr(AutoencoderConfig(), name) for name in names] == [getattr(TrainConfig(), name) for name in names]
    config = load(None, ["autoencoder.max_failures=0", "train.max_failures=7"])
    assert (config.autoencoder.max_failures, config.train.max_failures) == (0, 7)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["autoencoder.compile=true", "autoencoder.zero_stage=3"], r"autoencoder\.compile=true cannot be combined"),
        (["autoencoder.lr_schedule=constant", "autoencoder.lr_end=0.5"], r"autoencoder\.lr_end=0\.5 has no effect"),
    ],
)
def test_conflicting_fields_are_refused_with_the_name_of_their_section(overrides, problem):
    with pytest.raises(ConfigError, match=problem):
        load(None, overrides)
