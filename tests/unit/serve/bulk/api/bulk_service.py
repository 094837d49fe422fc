"""The API with two keys, and a runner, over one store, without a server."""

import asyncio
import json
from pathlib import Path

import httpx

from emoji_ldm.config import ServeConfig
from emoji_ldm.serve.api_keys import new_key, write_keys
from emoji_ldm.serve.app import build_api
from emoji_ldm.serve.bulk.api.router import bulk_routes
from emoji_ldm.serve.bulk.job_runner import JobRunner
from emoji_ldm.store import Store
from tests.unit.serve.bulk.instant_backend import InstantBackend

URL = "/v1/images/generations"


class BulkService:
    """The API with two keys, and a runner, over one store."""

    def __init__(self, folder):
        self.store, self.backend = Store(str(folder / "store")), InstantBackend()
        made = {name: new_key(name, "bulk", rate, None) for name, rate in (("ann", 0), ("bob", 60))}
        self.secrets = {name: secret for name, (secret, _) in made.items()}
        write_keys(str(folder / "keys.json"), tuple(key for _, key in made.values()))
        settings = ServeConfig(keys=str(folder / "keys.json"))
        self.api = build_api(self.backend, settings, routers=[bulk_routes(self.store, self.backend)])

    def call(self, method, path, owner="ann", headers=None, **options):
        async def send():
            transport = httpx.ASGITransport(self.api, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client:
                own = {"authorization": f"Bearer {self.secrets[owner]}", **(headers or {})}
                return await client.request(method, path, headers=own, **options)

        return asyncio.run(send())

    def create(self, **body):
        response = self.call("POST", "/v1/emoji-sets", json=body)
        assert response.status_code == 202, response.text
        return response.json()["id"]

    def run_jobs(self):
        asyncio.run(JobRunner(self.store, self.backend, poll_s=0.05).run(until_idle=True))

    def completed_batch(self, bodies):
        """The batch object of a completed batch with one line per body."""
        lines = [{"custom_id": str(n), "method": "POST", "url": URL, "body": body} for n, body in enumerate(bodies)]
        file = {"file": ("x.jsonl", "\n".join(map(json.dumps, lines)))}
        file_id = self.call("POST", "/v1/files", files=file, data={"purpose": "batch"}).json()["id"]
        body = {"input_file_id": file_id, "endpoint": URL, "completion_window": "24h"}
        job_id = self.call("POST", "/v1/batches", json=body).json()["id"]
        self.run_jobs()
        return self.call("GET", f"/v1/batches/{job_id}").json()

    def status(self, job_id):
        return self.call("GET", f"/v1/emoji-sets/{job_id}").json()

    def files(self):
        return [path for path in Path(self.store.root).rglob("*") if path.is_file()]
