"""Section `train`: fields of its groups that depend on each other."""

import pytest

from tests.unit.config.overrides import assert_loads_again, assert_refused_in_one_line

CONCEPT = "train.dreambooth.concepts=[{instance_prompt: zwx dog, instance_folder: rex}]"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train.lora.alpha=8"], r"train\.lora\.rank is missing; give it a value"),
        (["train.lora={rank: 2, targets: []}"], r"train\.lora\.targets=\[\] is refused: .* at least 1 item"),
        (["train.dreambooth.prior_weight=0.5"], r"train\.dreambooth\.concepts is missing; give it a value"),
        (["train.dreambooth.num_class_images=9", CONCEPT], r"num_class_images=9 has no effect .* a class_prompt"),
        (
            ["train.dreambooth.concepts=[{instance_prompt: a, instance_folder: b, class_folder: c}]"],
            r"train\.dreambooth\.concepts\.0: class_folder without class_prompt; give both or neither",
        ),
        (["train.lr_schedule=constant", "train.lr_end=0"], r"train\.lr_end=0\.0 has no effect .*lr_schedule=constant"),
        (["train.ema_widths=[0.05]", "train.ema_decay=0.9"], r"train\.ema_decay=0\.9 has no effect .*ema_widths"),
    ],
)
def test_what_would_have_no_effect_is_refused_in_one_line(overrides, words):
    assert_refused_in_one_line(overrides, words)


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.lora={rank: 2, alpha: 8, targets: [to_q]}"],
        ["train.lr_schedule=constant", "train.ema_widths=[0.05]"],
        ["train.zero_terminal_snr=true"],
        ["train.prediction_type=flow"],
        [CONCEPT],
    ],
)
def test_a_configuration_loads_again_with_every_field_written_out(overrides, tmp_path):
    assert_loads_again(overrides, tmp_path)
