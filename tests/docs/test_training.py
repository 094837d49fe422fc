"""The commands of the guides to training and generation, one after the other, with tiny models and few steps."""

import pytest
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from PIL import Image

from emoji_ldm.model.lora import save_adapters
from emoji_ldm.store import Store
from tests.docs.pages import guide, run
from tests.latents_store import fill_captioned
from tests.tiny_pipelines import write_pipeline

# What is too large for a test, of every command: two workers, two steps, a model of some ten thousand weights.
TINY = {
    "autoencoder": ["autoencoder.size_px=16", "autoencoder.block_out_channels=[16,16]", "autoencoder.steps=2",
                    "autoencoder.batch_size=4", "autoencoder.checkpoint_every=2", "autoencoder.num_workers=2"],
    "latents": ["latents.size_px=16", "latents.num_workers=1"],
    "train": ["train.block_out_channels=[8,16]", "train.layers_per_block=1", "train.num_heads=2", "train.steps=2",
              "train.batch_size=4", "train.checkpoint_every=2", "train.sample_every=null", "train.num_workers=2",
              "latents.size_px=16"],
    "generate": ["generate.steps=2", "generate.num_workers=1"],
}  # fmt: skip
SMALL_BUCKETS = {"step_px: 32, sizes_px: [64]": "step_px: 8, sizes_px: [8]"}  # for images of 16 px
LEFT_OUT = ("gpus_per_worker=1", "num_workers=8", "--config", "mlflow", "train.mix", "adapters")


def write_adapter(pipeline, folder):
    """A LoRA adapter of this pipeline, as `train --config lora` exports one."""
    unet = UNet2DConditionModel.from_pretrained(pipeline / "unet")
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"]))
    save_adapters("StableDiffusionPipeline", {"unet": unet}, folder)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_guide_to_training_runs_one_after_the_other(local_ray, capfd):
    Store("data").check_writable()
    fill_captioned(Store("data"))
    for words in guide("training"):
        if not any(text in word for text in LEFT_OUT for word in words):
            run([*words, *TINY["autoencoder" if "autoencoder" in words else words[0]]], capfd, SMALL_BUCKETS)
    assert (local_ray / "mine" / "model_index.json").is_file()
    for words in [*guide("datasets", "dataset tag"), *guide("datasets", "latents --as-of")]:
        run([*words, *(TINY["latents"] if words[0] == "latents" else [])], capfd)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_guide_to_generation_runs_one_after_the_other(local_ray, capfd):
    pipeline = write_pipeline(local_ray / "my-pipeline")
    (local_ray / "prompts.txt").write_text("a happy blob\n")
    write_adapter(pipeline, local_ray / "my-adapter")
    Image.new("RGBA", (32, 32), (200, 90, 0, 255)).save("cat.png")
    Image.new("RGBA", (32, 32)).save("mask.png")  # transparent: all is redrawn
    for words in guide("generation"):
        # Most commands of the page draw with the newest checkpoint of a run that was trained.
        named = any(word.startswith("generate.checkpoint=") for word in words)
        steps = [] if any(word.startswith("generate.steps=") for word in words) else TINY["generate"]
        run([*words, *steps, *([] if named else ["generate.checkpoint=./my-pipeline"])], capfd)
    assert len(list((local_ray / "runs" / "default" / "generated").glob("*.png"))) >= 8
