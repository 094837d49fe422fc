"""Tests of the OpenAPI description."""

from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.serve.api_keys import new_key, write_keys
from emoji_ldm.serve.app import build_api
from emoji_ldm.serve.bulk.api.router import bulk_routes
from emoji_ldm.serve.image_requests import ImageRequest
from emoji_ldm.serve.openapi_models import ErrorDetail
from emoji_ldm.store import Store
from tests.unit.serve.asgi_client import call, send
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


def test_the_description_says_how_keys_are_sent_and_shows_examples(path):
    (_, key) = new_key("ann", "interactive", 0, None)
    write_keys(path, (key,))
    text = send(build_api(FakeBackend(), ServeConfig(keys=path)), "GET", "/openapi.json").json()
    assert text["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for where, methods in text["paths"].items():
        for operation in methods.values():
            assert ("security" in operation) == (where not in ("/health", "/docs", "/")), where
    drawn = text["paths"]["/v1/images/generations"]["post"]
    assert ImageRequest.model_validate(drawn["requestBody"]["content"]["application/json"]["example"])
    refusal = drawn["responses"]["429"]
    error = ErrorDetail.model_validate(refusal["content"]["application/json"]["example"]["error"])
    assert error.code == "rate_limit_exceeded" and "Retry-After" in refusal["headers"]
    assert "Idempotency-Key" in [each["name"] for each in drawn["parameters"]]
    assert "security" not in call(FakeBackend(), "GET", "/openapi.json").json()["paths"]["/v1/models"]["get"]


def test_every_reference_of_the_description_leads_somewhere(tmp_path):
    store = Store(str(tmp_path))
    backend = FakeBackend()
    text = send(build_api(backend, routers=[bulk_routes(store, backend)], store=store), "GET", "/openapi.json").json()

    def references(value):
        if isinstance(value, dict):
            yield from [value["$ref"]] if "$ref" in value else []
            value = list(value.values())
        for each in value if isinstance(value, list) else ():
            yield from references(each)

    found = set(references(text))
    known = {f"#/components/schemas/{name}" for name in text["components"]["schemas"]}
    assert found and found <= known
