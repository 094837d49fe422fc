"""Requests to the whole application in this process, without a server."""

import asyncio
import base64
import json

import httpx

from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.serve.app import build_api
from tests.unit.serve.fake_backend import request_in


def send(api, method, path, **options):
    """The response of an application."""

    async def run():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as client:
            return await client.request(method, path, **options)

    return asyncio.run(run())


def send_with_key(api, authorization, path="/v1/models", **options):
    """The response to a request with an `Authorization` header; a POST if there are options."""
    headers = {"Authorization": authorization} if authorization else {}
    return send(api, "POST" if options else "GET", path, headers=headers, **options)


def call(backend, method, path, settings=None, **options):
    """The response of the application over a backend, which must have no task left then."""
    response = send(build_api(backend, settings or ServeConfig()), method, path, **options)
    assert not backend.running, "a task goes on after the response"
    return response


def generate(backend, **body):
    return call(backend, "POST", "/v1/images/generations", content=json.dumps(body))


def edit(backend, files, **fields):
    return call(backend, "POST", "/v1/images/edits", files=files, data=fields)


def files_of(response):
    return [base64.b64decode(item["b64_json"]) for item in response.json()["data"]]


def requests_in(response):
    """The requests that the images of a response were generated from."""
    return [request_in(data) for data in files_of(response)]


def error_of(response, status):
    assert response.status_code == status, response.text
    [(key, error)] = response.json().items()
    assert key == "error" and set(error) == {"message", "type", "param", "code"}
    return error
