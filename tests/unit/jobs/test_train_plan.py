"""`emoji-ldm train plan`: a table and advice, without a worker."""

import re
from pathlib import Path

import psutil
import pytest
import yaml

from ray_jobs.cli import train_plan
from ray_jobs.cli.main import main
from tests.latents_store import fill_latents, training_config

ROOT = Path(__file__).parents[3]
SMALL = ["train.block_out_channels=[8,16]", "train.layers_per_block=1", "train.num_heads=2", "train.batch_size=8"]


@pytest.fixture
def store(tiny_pipeline, tmp_path):
    fill_latents(training_config(tiny_pipeline, tmp_path / "store"))
    return f"store={tmp_path / 'store'}"


def test_a_plan_names_what_is_needed_and_what_fits(store, capfd):
    assert main(["train", "plan", store, *SMALL]) == 0
    told = capfd.readouterr().err
    for words in ("parameters", "memory of a rank", "activations", "optimiser", "checkpoint", "local copy", ": fits"):
        assert words in told


def test_a_plan_for_gpus_goes_through_their_usual_sizes(store, capfd):
    options = ["train.gpus_per_worker=1", "train.num_workers=2", "train.precision=bf16", "train.zero_stage=1"]
    assert main(["train", "plan", store, *SMALL, *options]) == 0
    told = capfd.readouterr().err
    assert "a GPU of 16 GiB: fits\n" in told and "copy for saving" in told


def test_without_latents_sizes_are_taken_from_the_configuration_and_named(tmp_path, capfd):
    assert main(["train", "plan", f"store={tmp_path}", *SMALL]) == 0
    told = capfd.readouterr().err
    assert "planned for latents of 4 x 16 x 16 and 32 text states of width 384, by the configuration" in told
    assert "memory of a rank" in told and "local copy" not in told


def test_a_pipeline_that_is_neither_here_nor_known_is_refused_in_one_line(tmp_path, capfd):
    assert main(["train", "plan", f"store={tmp_path}", "train.init=someone/pipeline"]) == 1
    told = capfd.readouterr().err
    assert "train.init=someone/pipeline, which is not on this machine; known without it are: CompVis" in told
    assert "Traceback" not in told


def test_the_pods_that_a_plan_is_compared_with_are_those_of_the_manifests():
    def memory(pod):
        return pod["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]

    large = yaml.safe_load((ROOT / "k8s/components/large/gpu.yaml").read_text())
    assert memory(large) == f"{train_plan.GPU_POD_GIB}Gi"
    pods = yaml.safe_load((ROOT / "k8s/base/pods.yaml").read_text())["items"]
    (small,) = [pod for pod in pods if pod["metadata"]["name"] == "gpu-on-demand"]
    assert memory(small) == f"{train_plan.CPU_POD_GIB}Gi"


@pytest.mark.parametrize(("limit", "expected"), [("max\n", None), ("1048576\n", 1_048_576)])
def test_the_memory_of_a_container_is_its_own_limit(tmp_path, monkeypatch, limit, expected):
    (tmp_path / "memory.max").write_text(limit)
    monkeypatch.setattr(train_plan, "MEMORY_LIMIT_FILE", tmp_path / "memory.max")
    assert train_plan._memory_limit() == (expected or psutil.virtual_memory().total)


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "size", "told"), [
    ("sdxl-lora", 2_567_463_684, "a GPU of 24 GiB: fits\n"), ("sd3-lora", 2_028_328_000, "a GPU of 24 GiB: fits\n"),
    ("flux-lora", 11_901_408_320, "a GPU of 141 GiB: fits\n"),
])  # fmt: skip
def test_presets_of_large_networks_are_planned_at_their_real_size(tmp_path, capfd, preset, size, told):
    assert main(["train", "plan", "--config", preset, f"store={tmp_path}"]) == 0
    found = capfd.readouterr().err
    assert "planned for the published sizes of" in found and told in found
    trained, whole = re.search(r"([\d,]+) trained of ([\d,]+)", found).groups()
    # The adapters, which are what is trained, come on top of the published network.
    assert int(whole.replace(",", "")) - int(trained.replace(",", "")) == size


def test_wrong_words_are_refused(capfd):
    assert main(["train", "plam"]) == 2
    assert "did you mean 'plan'?" in capfd.readouterr().err
