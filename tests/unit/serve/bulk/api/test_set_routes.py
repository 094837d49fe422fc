import asyncio
import csv
import io
import json
import zipfile
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest
from PIL import Image

from emoji_ldm.config import ServeConfig
from emoji_ldm.serve.api_keys import new_key, write_keys
from emoji_ldm.serve.app import build_api
from emoji_ldm.serve.bulk.api.set_routes import bulk_routes
from emoji_ldm.serve.bulk.job_runner import JobRunner
from emoji_ldm.store import Store
from tests.unit.serve.bulk.instant_backend import Backend, paint

pytestmark = pytest.mark.slow


class Service:
    """The API with two keys, and a runner, over one store."""

    def __init__(self, folder):
        self.store, self.backend = Store(str(folder / "store")), Backend()
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
        answer = self.call("POST", "/v1/emoji-sets", json=body)
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    def draw(self):
        asyncio.run(JobRunner(self.store, self.backend, poll_s=0.05).run(until_idle=True))

    def status(self, job_id):
        return self.call("GET", f"/v1/emoji-sets/{job_id}").json()

    def files(self):
        return [path for path in Path(self.store.root).rglob("*") if path.is_file()]


@pytest.fixture
def service(tmp_path):
    return Service(tmp_path)


def test_every_prompt_is_drawn_n_times_in_every_style_and_taken_away_in_any_shape(service):
    styles = ["{prompt}, flat", "pixel {prompt}"]
    job_id = service.create(prompts=["a cat", "a dog"], n=2, styles=styles, seed=5, steps=7, name="pets")
    before = service.status(job_id)
    assert before["status"] == "queued" and before["counts"]["total"] == 8 and before["name"] == "pets"
    service.draw()
    after = service.status(job_id)
    assert after["status"] == "completed" and after["progress"] == 1
    assert after["counts"] == {"total": 8, "completed": 8, "failed": 0, "pending": 0}
    items = service.call("GET", f"/v1/emoji-sets/{job_id}/items").json()["data"]
    assert [(row["custom_id"], row["number"], row["prompt"], row["seed"]) for row in items[:5]] == [
        ("00000", 0, "a cat, flat", 5), ("00000", 1, "a cat, flat", 6), ("00000", 2, "pixel a cat", 5),
        ("00000", 3, "pixel a cat", 6), ("00001", 0, "a dog, flat", 5)]  # fmt: skip
    assert all(row["steps"] == 7 and row["model_key"] == "k1" for row in items)
    with zipfile.ZipFile(io.BytesIO(service.call("GET", f"/v1/emoji-sets/{job_id}/zip").content)) as archive:
        names = archive.namelist()
        assert names[0] == "0000_a-cat-flat_5.png" and names[-2:] == ["prompts.csv", "sheet.png"] and len(names) == 10
        rows = list(csv.DictReader(io.StringIO(archive.read("prompts.csv").decode())))
        assert archive.testzip() is None and [row["file"] for row in rows] == names[:8]
        assert archive.read(names[0]) == paint(service.backend.wishes[0].draw)
    sheet = service.call("GET", f"/v1/emoji-sets/{job_id}/sheet")
    assert Image.open(io.BytesIO(sheet.content)).format == "PNG"
    [file] = service.call("GET", f"/v1/emoji-sets/{job_id}/parquet").json()["data"]
    data = service.call("GET", f"/v1/emoji-sets/{job_id}/parquet/{file['name']}").content
    assert pq.read_table(io.BytesIO(data)).num_rows == file["pictures"] == 8


def test_lines_of_an_upload_go_by_their_own_parameters_and_the_others(service):
    lines = [
        {"custom_id": "a", "prompt": "a cat"},
        {"custom_id": "b", "prompt": "a dog", "n": 3, "steps": 9, "seed": 1},
    ]
    file = "\n".join(map(json.dumps, lines)) + "\n\n"
    shared = json.dumps({"num_inference_steps": 3, "negative_prompt": "fog", "seed": 8})
    answer = service.call("POST", "/v1/emoji-sets", files={"file": ("x.jsonl", file)}, data={"parameters": shared})
    raw = service.call("POST", "/v1/emoji-sets", content=file, headers={"content-type": "application/jsonl"})
    assert answer.status_code == raw.status_code == 202
    service.draw()
    items = service.call("GET", f"/v1/emoji-sets/{answer.json()['id']}/items").json()["data"]
    assert [(row["custom_id"], row["seed"], row["steps"], row["negative_prompt"]) for row in items] == [
        ("a", 8, 3, "fog"), ("b", 1, 9, "fog"), ("b", 2, 9, "fog"), ("b", 3, 9, "fog")]  # fmt: skip
    assert service.status(raw.json()["id"])["counts"]["completed"] == 4


@pytest.mark.parametrize(
    ("body", "param", "text"),
    [
        ({}, "prompts", "missing"),
        ({"prompts": []}, "prompts", "missing"),
        ({"prompts": ["a", " "]}, "prompts[1]", "empty"),
        ({"prompts": ["a", 3]}, "prompts.1", "string"),
        ({"prompts": ["a"], "n": 0}, "n", "greater"),
        ({"prompts": ["a"], "styles": ["flat"]}, "styles.0", "{prompt}"),
        ({"prompts": ["a"], "steps": 0}, "num_inference_steps", "greater"),
        ({"prompts": ["a"], "steps": 10_000}, "num_inference_steps", "at most 100"),
        ({"prompts": ["a"], "stepz": 3}, "stepz", "steps"),
        ({"prompts": ["a"], "scheduler": "magic"}, "scheduler", "magic"),
        ({"prompts": ["a"], "size": "7x7"}, "size", "multiples"),
        ({"prompts": ["a"], "stream": True}, "stream", "bulk"),
        ({"prompts": ["a"], "prompt": "b"}, "prompt", "prompts"),
        ({"prompts": ["a"], "seed": 2**63 - 1, "n": 2}, "prompts[0]", "too large"),
        ({"prompts": ["a"] * 1000, "n": 1000}, None, "200,000"),
    ],
)  # fmt: skip
def test_a_bad_request_names_the_field_and_leaves_nothing(service, body, param, text):
    answer = service.call("POST", "/v1/emoji-sets", json=body)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == param and text in error["message"]
    assert not service.files()


@pytest.mark.parametrize(
    ("bad", "param", "text"),
    [
        ('{"custom_id": "x", "prompt": "a", "steps": 0}', "num_inference_steps", "greater"),
        ('{"custom_id": "x", "prompt": ', None, "JSON"),
        ('{"prompt": "a"}', "custom_id", "custom_id"),
        ('{"custom_id": "7", "prompt": "a"}', "custom_id", "line 8 already"),
        ("[1]", None, "object"),
        (r'{"custom_id": "\ud83d", "prompt": "a"}', "custom_id", "half of a surrogate pair"),
        (r'{"custom_id": "x", "prompt": "\ud83d"}', "prompt", "half of a surrogate pair"),
        ('{"custom_id": "x", "n": 2}', "prompt", "missing"),
    ],
)  # fmt: skip
def test_a_bad_line_of_many_is_named_and_nothing_is_half_created(service, bad, param, text):
    good = [json.dumps({"custom_id": str(number), "prompt": "a cat"}) for number in range(500)]
    file = "\n".join([*good[:399], bad, *good[399:]])
    answer = service.call("POST", "/v1/emoji-sets", content=file, headers={"content-type": "application/jsonl"})
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["message"].startswith("line 400: ") and text in error["message"]
    assert error["param"] == param and not service.files()


def test_jobs_of_others_are_not_there(service):
    job_id = service.create(prompts=["a"])
    for method, tail in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/zip"), ("GET", "/items")):
        answer = service.call(method, f"/v1/emoji-sets/{job_id}{tail}", owner="bob")
        assert answer.status_code == 404 and "no job" in answer.json()["error"]["message"]
    assert service.call("GET", "/v1/emoji-sets", owner="bob").json()["data"] == []
    assert [job["id"] for job in service.call("GET", "/v1/emoji-sets").json()["data"]] == [job_id]
    for strange in ("set_0", "..", "set_%2e%2e", "open"):
        assert service.call("GET", f"/v1/emoji-sets/{strange}").status_code == 404


def test_lists_come_in_pages_newest_first(service):
    ids = [service.create(prompts=[str(number)]) for number in range(5)][::-1]
    first = service.call("GET", "/v1/emoji-sets", params={"limit": 3}).json()
    rest = service.call("GET", "/v1/emoji-sets", params={"limit": 3, "after": first["last_id"]}).json()
    assert [job["id"] for job in first["data"] + rest["data"]] == ids
    assert first["has_more"] and not rest["has_more"]


def test_a_repeated_request_with_a_key_is_the_same_job_and_another_one_is_refused(service):
    def post(prompt, owner="ann"):
        return service.call(
            "POST", "/v1/emoji-sets", owner, json={"prompts": [prompt]}, headers={"idempotency-key": "k"}
        )

    first, again, other, bobs = post("a"), post("a"), post("b"), post("b", "bob")
    assert first.json()["id"] == again.json()["id"] and first.json()["seed"] == again.json()["seed"]
    assert other.status_code == 409 and bobs.status_code == 202
    service.draw()
    assert post("a").json()["status"] == "completed"


def test_a_cancelled_set_keeps_what_is_drawn_and_a_deleted_one_nothing(service):
    job_id = service.create(prompts=["a"])
    assert service.call("POST", f"/v1/emoji-sets/{job_id}/cancel").json()["status"] == "cancelled"
    service.draw()
    assert service.status(job_id)["counts"]["pending"] == 1 and not service.backend.wishes
    assert service.call("GET", f"/v1/emoji-sets/{job_id}/sheet").status_code == 404
    assert service.call("DELETE", f"/v1/emoji-sets/{job_id}").json()["deleted"]
    assert service.call("GET", f"/v1/emoji-sets/{job_id}").status_code == 404
    assert not service.files()


def test_prompts_of_any_script_and_emoji_are_drawn(service):
    prompts = [
        "😀 with 🎩",
        "وجه سعيد",
        "שמח",
        "猫",
        "e\u0301 \u202e turned",
        "a" * 4000,
        "=SUM(A1)",
        '"quoted", text\nline',
    ]
    job_id = service.create(prompts=prompts)
    service.draw()
    items = service.call("GET", f"/v1/emoji-sets/{job_id}/items").json()["data"]
    assert [row["prompt"] for row in items] == prompts and {row["status"] for row in items} == {"ok"}
    with zipfile.ZipFile(io.BytesIO(service.call("GET", f"/v1/emoji-sets/{job_id}/zip").content)) as archive:
        rows = list(csv.DictReader(io.StringIO(archive.read("prompts.csv").decode(), newline="")))
    assert [row["prompt"] for row in rows] == prompts


def test_pictures_of_jobs_count_against_the_quota_and_those_of_cancelled_ones_do_not(service):
    def post(number):
        return service.call("POST", "/v1/emoji-sets", "bob", json={"prompts": ["a"], "n": number})

    first = post(50).json()["id"]
    refused = post(50)
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 1
    assert len(service.call("GET", "/v1/emoji-sets", "bob").json()["data"]) == 1
    for _ in range(2):
        service.call("POST", f"/v1/emoji-sets/{first}/cancel", "bob")
    assert post(50).status_code == 202 and post(50).status_code == 429
