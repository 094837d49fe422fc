"""Fixtures of the tests of the bulk API."""

import openai
import pytest

from tests.unit.serve.bulk.api.bulk_service import BulkService
from tests.unit.serve.bulk.instant_backend import InstantBackend
from tests.unit.serve.bulk.live_service import serving


@pytest.fixture
def service(tmp_path):
    """The API over an empty store."""
    return BulkService(tmp_path)


@pytest.fixture
def completed_set(service):
    """Id of a completed set of 20 images."""
    job_id = service.create(prompts=[f"p{number}" for number in range(20)])
    service.run_jobs()
    return job_id


@pytest.fixture
def completed_batch(service):
    """A completed batch, of which one request failed."""
    bodies = [{"prompt": "a cat", "n": 3}, {"prompt": "refuse"}, {"prompt": "a dog"}, {"prompt": "a cow"}]
    return service.completed_batch(bodies)


@pytest.fixture(scope="module")
def backend():
    """The backend of `client`."""
    return InstantBackend(0.002)


@pytest.fixture(scope="module")
def client(tmp_path_factory, backend):
    """The official client of a real server with a runner."""
    with (
        serving(tmp_path_factory.mktemp("batches"), backend) as (url, key),
        openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client,
    ):
        yield client
