"""Loading a pipeline folder, and LoRA adapters as diffusers saves them, beside diffusers' own way of loading them."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from emoji_ldm.errors import ModelError
from emoji_ldm.generate.checkpoint_resolver import LORA_FILE, lora_key, model_key
from emoji_ldm.generate.offline_sampler import OfflineSampler
from emoji_ldm.generate.pipeline_loader import load_model, sampling_device, with_lora
from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.model.lora import save_adapters

REQUEST = GenerationRequest("a happy cat", "sad", seed=5, steps=4, guidance_scale=3.0)


def test_a_pipeline_folder_loads_with_its_shapes(tiny_pipeline):
    model = load_model(tiny_pipeline, "cpu")
    assert model.latent_shape == model.vae.latent_shape == (4, 16, 16)
    assert (model.size_px, model.downsampling_factor) == (32, 2)
    assert model.encode_prompt("a cat").shape == (1, 16, 32)


@pytest.mark.parametrize("part", ["unet", "text_encoder", "model_index.json"])
def test_a_folder_that_is_no_pipeline_is_refused_with_what_is_missing(tiny_pipeline, tmp_path, part):
    folder = shutil.copytree(tiny_pipeline, tmp_path / "broken")
    shutil.rmtree(folder / part, ignore_errors=True)
    (folder / part).unlink(missing_ok=True)
    with pytest.raises(ModelError, match=f"broken is not a StableDiffusionPipeline folder: {part} missing"):
        load_model(folder)


def test_damaged_weights_are_reported_with_one_line(tiny_pipeline, tmp_path):
    folder = shutil.copytree(tiny_pipeline, tmp_path / "damaged")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match=r"cannot load .*unet"):
        load_model(folder, "cpu")


def test_a_unet_that_takes_more_than_a_latent_is_refused(tiny_pipeline, tmp_path):
    folder = shutil.copytree(tiny_pipeline, tmp_path / "other")
    path = folder / "vae" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "latent_channels": 9}))
    with pytest.raises(ModelError, match="only text-to-image models work"):
        load_model(folder, "cpu")


def test_a_hub_id_that_cannot_be_reached_is_reported_with_one_line():
    with pytest.raises(ModelError, match="no model of that name could be downloaded"):
        load_model("nobody/nothing")


@pytest.fixture
def cudnn(monkeypatch):
    """cuDNN's settings; those of the process are restored afterwards."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    cudnn, fill = torch.backends.cudnn, torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings = cudnn.benchmark, cudnn.deterministic, fill.fill_uninitialized_memory
    torch.use_deterministic_algorithms(False)
    yield cudnn
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    cudnn.benchmark, cudnn.deterministic, fill.fill_uninitialized_memory = settings
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def test_only_deterministic_sampling_on_a_gpu_restricts_the_kernels_of_the_process(cudnn):
    before = cudnn.enabled, cudnn.allow_tf32
    assert sampling_device(1, deterministic=False) == "cuda" and not torch.are_deterministic_algorithms_enabled()
    assert sampling_device(1) == "cuda"
    assert torch.are_deterministic_algorithms_enabled() and cudnn.deterministic and not cudnn.benchmark
    assert (cudnn.enabled, cudnn.allow_tf32) == before and cudnn.enabled
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_sampling_on_a_cpu_uses_one_thread():
    torch.set_num_threads(2)
    try:
        assert sampling_device(0) == "cpu" and torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model(tiny_pipeline):
    return load_model(tiny_pipeline, "cpu")


def pipeline_with_adapters(folder):
    """A pipeline with random adapters in the U-Net and the text encoder."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    torch.manual_seed(0)
    for part, names in {"unet": ["to_q", "to_v", "conv1"], "text_encoder": ["q_proj", "fc1"]}.items():
        module = getattr(pipeline, part)
        module.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=names))
        for name, parameter in module.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0, 0.3)
    return pipeline


@pytest.fixture(scope="module")
def folders(tiny_pipeline, tmp_path_factory):
    """Adapters as diffusers saves them, with and without the text encoder's, and as our training saves them."""
    root = tmp_path_factory.mktemp("lora")
    both = pipeline_with_adapters(tiny_pipeline)
    layers = {part: convert_state_dict_to_diffusers(get_peft_model_state_dict(getattr(both, part)))
              for part in ("unet", "text_encoder")}  # fmt: skip
    StableDiffusionPipeline.save_lora_weights(root / "unet", unet_lora_layers=layers["unet"])
    StableDiffusionPipeline.save_lora_weights(
        root / "both", unet_lora_layers=layers["unet"], text_encoder_lora_layers=layers["text_encoder"]
    )
    save_adapters("StableDiffusionPipeline", {"unet": both.unet}, root / "ours")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "both", "ours"])
def test_sampling_with_an_adapter_equals_a_diffusers_pipeline(model, folders, tiny_pipeline, name):
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipeline, safety_checker=None)
    pipeline.load_lora_weights(folders / name)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        REQUEST.prompt, negative_prompt=REQUEST.negative_prompt, num_inference_steps=4, guidance_scale=3.0,
        generator=[torch.Generator().manual_seed(5)], output_type="latent",
    ).images  # fmt: skip
    latents = OfflineSampler(with_lora(model, folders / name), 1).latents([REQUEST])
    torch.testing.assert_close(latents, expected, rtol=0, atol=1e-4)
    assert (latents - OfflineSampler(model, 1).latents([REQUEST])).abs().max() > 0.01


@pytest.mark.slow
def test_adapters_add_up_with_their_weights_as_in_diffusers(model, folders, tiny_pipeline):
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipeline, safety_checker=None)
    pipeline.load_lora_weights(folders / "unet", adapter_name="one")
    pipeline.load_lora_weights(folders / "ours", adapter_name="two")
    pipeline.set_adapters(["one", "two"], [0.5, -0.25])
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        REQUEST.prompt, negative_prompt=REQUEST.negative_prompt, num_inference_steps=4, guidance_scale=3.0,
        generator=[torch.Generator().manual_seed(5)], output_type="latent",
    ).images  # fmt: skip
    mixed = with_lora(with_lora(model, folders / "unet", 0.5), folders / "ours", -0.25)
    torch.testing.assert_close(OfflineSampler(mixed, 1).latents([REQUEST]), expected, rtol=0, atol=1e-4)
    assert len({mixed.key, model.key, with_lora(model, folders / "unet").key}) == 3


@pytest.mark.slow
def test_the_base_model_keeps_its_bits_and_shares_its_unadapted_weights(tiny_pipeline, folders):
    model = load_model(tiny_pipeline, "cpu")
    before = OfflineSampler(model, 1)([REQUEST])[0]
    adapted = with_lora(model, folders / "both")
    np.testing.assert_array_equal(OfflineSampler(model, 1)([REQUEST])[0], before)
    shared = [ours is theirs for ours, theirs in zip(adapted.unet.parameters(), model.unet.parameters(), strict=True)]
    assert 0.8 < sum(shared) / len(shared) < 1


@pytest.mark.slow
def test_the_key_depends_on_model_and_adapter(model, folders):
    keys = {model.key, *(with_lora(model, folders / name).key for name in ("unet", "both"))}
    assert len(keys) == 3
    assert with_lora(model, folders / "unet").key == lora_key(model.key, folders / "unet")
    assert lora_key("other", folders / "unet") not in keys


def unusable(layers):
    """{error message: the file's tensors}; None for no file."""
    name = next(iter(layers))
    return {
        "no adapter in": None,
        "belong to no layer": {**layers, "unet.no.such.layer.lora.down.weight": torch.ones(2, 2),
                               "unet.no.such.layer.lora.up.weight": torch.ones(2, 2)},
        "does not fit": {**layers, name: torch.ones(2, 7)},
        "tensor names start with": {"transformer.a.lora_A.weight": torch.ones(2, 2)},
        "DoRA": {**layers, "unet.mid.dora_scale": torch.ones(2)},
    }  # fmt: skip


@pytest.mark.parametrize(
    "message", ["no adapter in", "belong to no layer", "does not fit", "tensor names start with", "DoRA"]
)
def test_an_adapter_that_cannot_be_used_is_refused_with_the_reason(model, folders, tmp_path, message):
    layers = unusable(load_file(folders / "unet" / LORA_FILE))[message]
    if layers:
        save_file(layers, tmp_path / LORA_FILE)
    with pytest.raises(ModelError, match=message):
        with_lora(model, tmp_path)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_pickled_weights_are_refused_and_never_opened(tiny_pipeline, tmp_path, part):
    class Opened:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "the code of a stranger ran"),)

    shutil.copytree(tiny_pipeline, tmp_path / "pipeline")
    [weights] = (tmp_path / "pipeline" / part).glob("*.safetensors")
    weights.unlink()
    name = "pytorch_model.bin" if part == "text_encoder" else "diffusion_pytorch_model.bin"
    torch.save({"weight": Opened()}, weights.with_name(name))
    for load in (load_model, model_key):
        with pytest.raises(ModelError, match=rf"{part} has no weights in safetensors \(others: {name}\)"):
            load(tmp_path / "pipeline")
    assert not (tmp_path / "the code of a stranger ran").exists()
