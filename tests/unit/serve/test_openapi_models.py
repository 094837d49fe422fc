"""Tests of the OpenAPI description."""

from emoji_ldm.serve.image_requests import ImageRequest
from tests.unit.serve.asgi_client import call
from tests.unit.serve.fake_backend import FakeBackend


def test_the_openapi_description_documents_every_field_and_error():
    paths = call(FakeBackend(), "GET", "/openapi.json").json()["paths"]
    for path, media_type in (("generations", "application/json"), ("edits", "multipart/form-data")):
        schema = paths[f"/v1/images/{path}"]["post"]["requestBody"]["content"][media_type]["schema"]
        assert set(ImageRequest.model_fields) <= set(schema["properties"]) and "prompt" in schema["required"]
        assert all(field.get("description") for field in schema["properties"].values())
    for methods in paths.values():
        assert all("4XX" in one["responses"] and "422" not in one["responses"] for one in methods.values())
    assert {"200", "400", "401", "413", "429", "503", "504"} <= set(paths["/v1/images/edits"]["post"]["responses"])
