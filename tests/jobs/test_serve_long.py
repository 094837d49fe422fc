"""What a service may go through while requests come in all the time: none is lost, none is doubled, no byte differs."""

import asyncio
import os
import random
import signal
import socket
import threading
from contextlib import ExitStack

import httpx
import pytest
from ray import serve

from ray_jobs.serving import deployments
from tests.deployed_service import TIMEOUT_S, DeployedService, replica_processes

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

RATE = 2.5  # requests a second: loading replicas take half of two cores while others are killed
KILL_EVERY_S = 10.0  # on two cores a new replica takes about as long to come up: at times there is none


async def ask(service, bodies, rate=RATE):
    """The pictures, in the order of the bodies, which come in at random times."""
    chance = random.Random(1)

    async def one(body):
        answer = await client.post(f"{service.url}/v1/images/generations", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    async with httpx.AsyncClient(timeout=TIMEOUT_S + 30, limits=httpx.Limits(max_connections=500)) as client:
        tasks = []
        for body in bodies:
            tasks.append(asyncio.create_task(one(body)))
            await asyncio.sleep(chance.expovariate(rate))
        return await asyncio.gather(*tasks)


@pytest.fixture(scope="module")
def service(tmp_path_factory, tiny_pipeline):
    service = DeployedService(tmp_path_factory.mktemp("service"), tiny_pipeline)
    service.deploy()
    yield service
    serve.shutdown()


@pytest.fixture(scope="module")
def quiet(service):
    """Bodies, and what they get while nothing happens."""
    chance = random.Random(0)
    bodies = [{"prompt": chance.choice(["a cat", "a dog"]), "seed": seed, "steps": chance.choice([3, 6, 15]),
               "guidance_scale": chance.choice([1.0, 3.0, 7.5])} for seed in range(200)]  # fmt: skip
    return bodies, asyncio.run(ask(service, bodies, 20))


def kill_now_and_then(over):
    """Kill a replica of the model every few seconds; returns a list that grows with each."""
    killed, chance = [], random.Random(2)

    def run():
        while not over.wait(KILL_EVERY_S):
            if found := replica_processes("model-tiny"):
                os.kill(chance.choice(found).pid, signal.SIGKILL)
                killed.append(1)

    threading.Thread(target=run, daemon=True).start()
    return killed


@pytest.mark.slow
def test_replicas_that_are_killed_cost_no_request_and_change_no_byte(service, quiet):
    bodies, pictures = quiet
    over = threading.Event()
    killed = kill_now_and_then(over)
    try:
        assert asyncio.run(ask(service, bodies)) == pictures
    finally:
        over.set()
    assert len(killed) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"max_queued": 199}, {"max_queued": 198, "min_replicas": 1, "max_replicas": 1}],
                         ids=["a rolling update", "fewer replicas"])  # fmt: skip
def test_a_deployment_over_an_older_one_costs_no_request(service, quiet, change):
    bodies, pictures = quiet

    async def meanwhile():
        asking = asyncio.create_task(ask(service, bodies[:100]))
        await asyncio.sleep(2)
        await asyncio.to_thread(service.deploy, **change)
        return await asking

    assert asyncio.run(meanwhile()) == pictures[:100]


@pytest.mark.slow
def test_a_thousand_clients_that_never_end_their_headers_stop_nobody(service, quiet):
    """Ray's proxy gives them no limit of time; they cost it a socket each, and others nothing."""
    bodies, pictures = quiet
    host, port = service.url.removeprefix("http://").split(":")
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection((host, int(port)), 30)) for _ in range(1000)]
        for connection in slow:
            connection.sendall(b"POST /v1/images/generations HTTP/1.1\r\nHost: emoji\r\nX-Slow: ")
        assert asyncio.run(ask(service, bodies[:20], 20)) == pictures[:20]
        for connection in slow:
            connection.sendall(b"a")
        assert asyncio.run(ask(service, bodies[20:40], 20)) == pictures[20:40]
    assert httpx.get(f"{service.url}/health", timeout=10).status_code == 200


@pytest.mark.slow
def test_a_model_that_sleeps_is_woken_by_a_request(service, quiet, monkeypatch):
    bodies, pictures = quiet
    monkeypatch.setattr(deployments, "DOWNSCALE_DELAY_S", 5.0)
    service.deploy(min_replicas=0, max_replicas=2)
    service.until(0)
    assert httpx.get(f"{service.url}/health", timeout=10).status_code == 200
    assert asyncio.run(ask(service, bodies[:5])) == pictures[:5]
