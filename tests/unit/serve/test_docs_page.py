"""Tests of the documentation page."""

import re

from emoji_ldm.serve.image_requests import ImageRequest
from tests.unit.serve.asgi_client import call
from tests.unit.serve.fake_backend import FakeBackend


def test_the_page_refers_to_no_other_file_and_names_all_routes_and_fields():
    response = call(FakeBackend(), "GET", "/docs")
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/html")
    assert not re.search(r"(src|href)=.?(https?:)?//|<script|@import|url\(", response.text)
    assert 'href="openapi.json"' in response.text
    for path, methods in call(FakeBackend(), "GET", "/openapi.json").json()["paths"].items():
        assert all(f">{method.upper()}</span><code>{path}</code>" in response.text for method in methods)
    assert all(f"<code>{field}</code>" in response.text for field in (*ImageRequest.model_fields, "strength", "mask"))
