"""Fine-tuning starts from the packaged starter, and exports a pipeline that draws with its autoencoder."""

import pytest
import torch

from emoji_ldm.config import load
from emoji_ldm.dataset import checkpoints
from emoji_ldm.errors import ConfigError
from emoji_ldm.generate.offline_sampler import OfflineSampler
from emoji_ldm.generate.pipeline_loader import load_model
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.store import Store
from emoji_ldm.train.loop import fit
from emoji_ldm.train.tasks import diffusion_task
from emoji_ldm.train.tasks.pipeline_export import check_init
from emoji_ldm.train.training_args import build_training_args
from tests.latents_store import fill_latents
from tests.unit.train import tiny


def configure(store, *overrides):
    return load("finetune-starter", [
        "run=tiny", f"store={store}", "latents.size_px=16", "train.batch_size=4", "train.steps=2",
        "train.num_workers=1", "train.checkpoint_every=2",
        "train.sample_every=null", "train.validation_fraction=0", "train.log_every=1",
        *overrides,
    ])  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_starter_is_trained_on_and_the_result_draws(tiny_starter, tmp_path, precision):
    torch.set_num_threads(1)
    config = configure(tmp_path / "store", f"train.precision={precision}")
    fill_latents(config)
    context = tiny.run_context(config, tmp_path)
    task = diffusion_task.load_task(context)
    begin = {name: weight.clone() for name, weight in task.module.unet.named_parameters()}
    fit(task, build_training_args(config, "train"), context, torch.device("cpu"))
    (found,) = checkpoints.complete_checkpoints(Store(config.store), "tiny", "unet")
    base, tuned = load_model(tiny_starter, "cpu"), load_model(found.fetch(tmp_path / "cache", "pipeline"), "cpu")
    assert tuned.vae.key == base.vae.key and tuned.text_encoder.key == base.text_encoder.key
    changed = [name for name, weight in tuned.unet.named_parameters() if not torch.equal(weight, begin[name])]
    assert len(changed) > 0.9 * len(begin)
    (image,) = OfflineSampler(tuned, 1)([GenerationRequest("a cat", steps=2, scheduler="dpmpp_2m")])
    assert image.shape == (16, 16, 4)


def test_another_objective_is_refused_with_the_option_to_set(tiny_starter, tmp_path):
    with pytest.raises(
        ConfigError, match=r"train\.init=starter was trained with flow; set train\.prediction_type=flow"
    ):
        check_init(configure(tmp_path, "train.prediction_type=epsilon"))
