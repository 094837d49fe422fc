"""Section `autoencoder`: each kind of autoencoder has fields of its own."""

import pytest

from emoji_ldm.config import AutoencoderConfig
from emoji_ldm.errors import ConfigError
from tests.unit.config.overrides import assert_loads_again, assert_refused_in_one_line


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["autoencoder.kind=vq", "autoencoder.kl_weight=1"], r"autoencoder\.kl_weight=1\.0 has no effect .*kind=vq"),
        (["autoencoder.codebook_size=9"], r"autoencoder\.codebook_size=9 has no effect .*kind=kl"),
    ],
)
def test_a_field_of_the_other_kind_is_refused_in_one_line(overrides, words):
    assert_refused_in_one_line(overrides, words)


def test_a_vector_quantised_configuration_loads_again_with_every_field_written_out(tmp_path):
    assert_loads_again(["autoencoder.kind=vq", "autoencoder.codebook_size=9"], tmp_path)


def test_only_the_kind_that_can_recompute_activations_accepts_checkpointing():
    assert AutoencoderConfig(kind="kl", gradient_checkpointing=True).gradient_checkpointing
    with pytest.raises(ConfigError, match=r"gradient_checkpointing=true needs autoencoder\.kind=kl"):
        AutoencoderConfig(kind="vq", gradient_checkpointing=True)
