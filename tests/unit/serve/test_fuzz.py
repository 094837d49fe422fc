"""A fuzzer over the whole application: whatever is sent, no request crashes it."""

import asyncio
import json
import time
from collections import Counter

import httpx
import pytest

from emoji_ldm.config import build
from emoji_ldm.serve.app import build_api
from emoji_ldm.serve.bulk.api.router import bulk_routes
from emoji_ldm.serve.datasets.dataset_routes import dataset_routes
from emoji_ldm.serve.model_catalog import ModelCatalog
from emoji_ldm.serve.registry_routes import registry_routes
from emoji_ldm.serve.runs.run_routes import run_routes
from emoji_ldm.store import Store
from emoji_ldm.ui.studio_routes import studio_routes
from tests.stored_dataset import fill_dataset, fill_training
from tests.unit.serve.fake_backend import FakeBackend
from tests.unit.serve.request_fuzzer import RequestFuzzer

AT_ONCE = 8
# What a service may answer beyond 4xx: it is overloaded, or the store is away.
ALLOWED = (503, 504)


@pytest.mark.parametrize(
    "seconds",
    [pytest.param(5, marks=pytest.mark.slow), pytest.param(60, marks=pytest.mark.long),
     pytest.param(600, marks=[pytest.mark.long, pytest.mark.timeout(900)])],
)  # fmt: skip
def test_no_request_crashes_the_service(tmp_path, seconds):
    statuses, failures = asyncio.run(fuzz(tmp_path, seconds, first_seed=seconds))
    print(f"{sum(statuses.values()):,} requests: {dict(sorted(statuses.items()))}")
    assert not failures, failures[:5]
    assert statuses[200] > 0 and statuses[400] > 0


async def fuzz(folder, seconds, first_seed):
    """Send requests for some time; returns the statuses, and what failed: (seed, method, path, status, text)."""
    store, backend = Store(str(folder / "store")), FakeBackend()
    catalog = ModelCatalog(build({"run": "demo-1", "store": store.uri}, where="test"))
    fill_dataset(store)
    fill_training(store)
    routers = [bulk_routes(store, backend), registry_routes(catalog), dataset_routes(catalog.config),
               run_routes(catalog), studio_routes()]  # fmt: skip
    api = build_api(backend, routers=routers, store=store)
    statuses, failures, numbers = Counter(), [], iter(range(1_000_000 * first_seed, 2**60))
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client:
        fuzzer = RequestFuzzer((await client.get("/openapi.json")).json(), await known_ids(client))
        ends_at = time.monotonic() + seconds

        async def send_all():
            while time.monotonic() < ends_at:
                seed = next(numbers)
                method, path, options = fuzzer.request(seed)
                try:
                    response = await client.request(method, path, **options)
                except (httpx.InvalidURL, UnicodeError):
                    continue  # which httpx itself cannot send
                statuses[response.status_code] += 1
                if response.status_code >= 500 and response.status_code not in ALLOWED:
                    failures.append((seed, method, path, response.status_code, response.text[:300]))

        await asyncio.gather(*(send_all() for _ in range(AT_ONCE)))
    return statuses, failures


async def known_ids(client):
    """Ids of a set, a file and a batch, so that routes with ids are reached."""
    made = await client.post("/v1/emoji-sets", json={"prompts": ["a"]})
    line = {"custom_id": "a", "method": "POST", "url": "/v1/images/generations", "body": {"prompt": "a"}}
    form = {"file": ("x.jsonl", json.dumps(line))}
    file = await client.post("/v1/files", files=form, data={"purpose": "batch"})
    body = {"input_file_id": file.json()["id"], "endpoint": "/v1/images/generations", "completion_window": "24h"}
    batch = await client.post("/v1/batches", json=body)
    names = ["demo-1", "flow-1", "discord", "main", "v1", "train"]
    return [made.json()["id"], file.json()["id"], batch.json()["id"], *names]
