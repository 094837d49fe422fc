"""A bulk job over real HTTP and real Ray, while processes of the service are killed."""

import io
import time
from contextlib import suppress

import pyarrow.parquet as pq
import pytest
from ray import serve

from emoji_ldm.errors import JobError
from emoji_ldm.generate.offline_sampler import OfflineSampler
from emoji_ldm.generate.pipeline_loader import load_model, sampling_device
from emoji_ldm.generate.png_metadata import describe_mode, provenance, read_request, to_png
from emoji_ldm.serve.bulk.set_client import open_client
from tests.deployed_service import DeployedService, replica_processes

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

PROMPTS = [f"blob {number}" for number in range(40)]
N, SEED = 5, 7


@pytest.fixture(scope="module")
def service(tmp_path_factory, tiny_pipeline):
    service = DeployedService(tmp_path_factory.mktemp("sets"), tiny_pipeline)
    service.deploy()
    yield service
    serve.shutdown()


def done(client, name):
    """Pictures that are finished; None while the ingress is away."""
    with suppress(JobError):
        return client.status(name)["counts"]["completed"]
    return None


def wait(client, name, num_pictures):
    deadline = time.monotonic() + 240
    while (found := done(client, name)) is None or found < num_pictures:
        assert time.monotonic() < deadline, f"{found} of {num_pictures}"
        time.sleep(0.2)
    return found


def rows_of(client, name):
    files = [file["name"] for file in client.parquet(name)]
    return [row for file in files for row in pq.read_table(io.BytesIO(client.download(name, file))).to_pylist()]


@pytest.mark.slow
def test_a_job_through_kills_has_every_picture_once_with_the_bytes_of_the_sampler(service, tiny_pipeline):
    total, killed = len(PROMPTS) * N, 0
    with open_client(service.url, "") as client:
        name = client.create({"prompts": PROMPTS, "n": N, "seed": SEED, "num_inference_steps": 12})["id"]
        for share, victims in ((0.1, ["Sets", "model-tiny"]), (0.4, ["model-tiny", "Ingress"]), (0.6, ["Sets"])):
            assert wait(client, name, int(share * total)) < total
            for victim in victims:
                replica_processes(victim)[0].kill()
                killed += 1
        wait(client, name, total)
        rows = rows_of(client, name)
        assert client.status(name)["status"] == "completed"
    assert killed == 5
    assert sorted((row["prompt"], row["seed"]) for row in rows) == sorted(
        (prompt, seed) for prompt in PROMPTS for seed in range(SEED, SEED + N)
    )
    sampler = OfflineSampler(load_model(tiny_pipeline, sampling_device(0)), 4)
    pngs = [row["image"]["bytes"] for row in rows]
    draws = [read_request(png) for png in pngs]
    assert [(draw.prompt, draw.seed) for draw in draws] == [(row["prompt"], row["seed"]) for row in rows]
    facts = provenance(sampler.model, draws[0], describe_mode(4, deterministic=True), {})
    for png, draw, picture in zip(pngs, draws, sampler(draws), strict=True):
        assert png == to_png(picture, draw, facts)
