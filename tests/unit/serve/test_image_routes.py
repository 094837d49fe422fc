"""What single requests are answered, through the whole application but without a server."""

import asyncio
import base64
import gc
import io
import json
import logging
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from PIL import Image

from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.errors import ConfigError, DatasetError, StoreError
from emoji_ldm.serve import fan_out
from emoji_ldm.serve.app import build_api
from emoji_ldm.serve.backend import Overloaded, TaskTimeout
from emoji_ldm.serve.errors import RequestError
from emoji_ldm.serve.image_requests import ImageRequest, parse_request
from emoji_ldm.serve.request_body import parse_json
from tests.unit.serve.fake_backend import LIMITS, Painter, picture, told

pytestmark = pytest.mark.slow

MODELS = {"demo-1": LIMITS}


def call(backend, method, path, settings=None, **options):
    async def send():
        transport = httpx.ASGITransport(build_api(backend, settings or ServeConfig()))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.request(method, path, **options)
        assert not backend.rows, "whoever has an answer leaves nothing behind"
        return answer

    return asyncio.run(send())


def generate(backend, **body):
    return call(backend, "POST", "/v1/images/generations", content=json.dumps(body))


def edit(backend, files, **fields):
    return call(backend, "POST", "/v1/images/edits", files=files, data=fields)


def files_of(answer):
    return [base64.b64decode(item["b64_json"]) for item in answer.json()["data"]]


def drawn(answer):
    return [told(data) for data in files_of(answer)]


def error_of(answer, status):
    assert answer.status_code == status, answer.text
    [(key, error)] = answer.json().items()
    assert key == "error" and set(error) == {"message", "type", "param", "code"}
    return error


def test_a_prompt_alone_is_enough_and_the_answer_tells_the_seed():
    answer = generate(Painter(), prompt="a cat")
    assert answer.status_code == 200 and answer.json()["created"] > 0
    [item], [draw] = answer.json()["data"], drawn(answer)
    assert draw["seed"] == item["seed"] and draw["prompt"] == "a cat"
    assert (draw["steps"], draw["guidance_scale"], draw["width_px"]) == (30, 3.0, 0)


def test_n_images_are_n_draws_with_consecutive_seeds_in_order():
    answer = generate(Painter(), prompt="a cat", n=5, seed=7, steps=5, guidance_scale=2, negative_prompt="dog",
                      scheduler="euler", lora="blobs", size="96x64")  # fmt: skip
    assert [item["seed"] for item in answer.json()["data"]] == [7, 8, 9, 10, 11]
    assert [draw["seed"] for draw in drawn(answer)] == [7, 8, 9, 10, 11]
    common = {"steps": 5, "guidance_scale": 2.0, "negative_prompt": "dog", "scheduler": "euler", "lora": "blobs",
              "width_px": 96, "height_px": 64}  # fmt: skip
    assert all(draw.items() >= common.items() for draw in drawn(answer))
    assert answer.json()["size"] == "96x64"


def test_what_the_official_client_may_send_is_taken_and_null_is_the_same_as_absent():
    body = {"prompt": "a", "model": "demo-1", "size": "64x64", "response_format": "b64_json", "user": "me", "n": 1,
            "quality": "high", "moderation": "low", "safety_identifier": "u-1", "background": None, "stream": None,
            "partial_images": None, "seed": None}  # fmt: skip
    answer = generate(Painter(), **body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["quality"] == "high" and answer.json()["safety_identifier"] == "u-1"
    assert drawn(answer)[0]["steps"] == 50


def test_the_default_steps_are_the_most_that_a_model_of_few_steps_takes():
    assert drawn(generate(Painter(), prompt="a", model="flow-1"))[0]["steps"] == 8


@pytest.mark.parametrize(
    ("body", "param", "text"),
    [
        ({}, "prompt", "missing"),
        ({"prompt": None}, "prompt", "missing"),
        ({"prompt": ""}, "prompt", "empty"),
        ({"prompt": " \n"}, "prompt", "empty"),
        ({"prompt": 3}, "prompt", "valid string"),
        ({"prompt": "a\0b"}, "prompt", "NUL"),
        ({"prompt": "\ud800"}, "prompt", "prompt is refused: it holds half of a surrogate pair"),
        ({"prompt": "a" * 4001}, "prompt", "at most 4000"),
        ({"prompt": "a", "negative_prompt": "a" * 4001}, "negative_prompt", "at most 4000"),
        ({"prompt": "a", "n": 0}, "n", "greater than or equal to 1"),
        ({"prompt": "a", "n": 11}, "n", "at most 10"),
        ({"prompt": "a", "n": "2"}, "n", "valid integer"),
        ({"prompt": "a", "n": True}, "n", "valid integer"),
        ({"prompt": "a", "seed": -1}, "seed", "greater than or equal to 0"),
        ({"prompt": "a", "seed": 2**63 - 1, "n": 2}, "seed", "too large"),
        ({"prompt": "a", "steps": 0}, "steps", "greater than or equal to 1"),
        ({"prompt": "a", "steps": 10_000}, "num_inference_steps", "at most 100"),
        ({"prompt": "a", "guidance_scale": 0.5}, "guidance_scale", "greater than or equal to 1"),
        ({"prompt": "a", "guidance_scale": 1e999}, None, "no number"),
        ({"prompt": "a", "guidance_scale": float("nan")}, None, "NaN is no number"),
        ({"prompt": "a", "size": "7x7"}, "size", "multiples of 16 up to 128"),
        ({"prompt": "a", "size": "1024x1024"}, "size", "such as 64x64, or 'auto'"),
        ({"prompt": "a", "size": "0x64"}, "size", "multiples"),
        ({"prompt": "a", "size": "64×64"}, "size", "multiples"),
        ({"prompt": "a", "size": "٦٤x٦٤"}, "size", "multiples"),
        ({"prompt": "a", "scheduler": "eulr"}, "scheduler", "did you mean 'euler'?"),
        ({"prompt": "a", "lora": "cats"}, "lora", "known are: blobs"),
        ({"prompt": "a", "response_format": "url"}, "response_format", "only 'b64_json'"),
        ({"prompt": "a", "output_format": "gif"}, "output_format", "png"),
        ({"prompt": "a", "output_format": "jpeg", "background": "transparent"}, "background", "JPEG"),
        ({"prompt": "a", "output_compression": 50}, "output_compression", "PNG is lossless"),
        ({"prompt": "a", "partial_images": 2}, "partial_images", "stream=true"),
        ({"prompt": "a", "stream": True, "partial_images": 4}, "partial_images", "less than or equal to 3"),
        ({"prompt": "a", "quality": "low", "steps": 5}, "quality", "num_inference_steps"),
        ({"prompt": "a", "style": "vivid"}, "style", "say it in the prompt"),
        ({"prompt": "a", "guidance": 3}, "guidance", "did you mean 'guidance_scale'?"),
        ({"prompt": "a", "zzz": 3}, "zzz", "known are: prompt"),
        ({"prompt": "a", "\ud800": 3}, "\\ud800", "half of a surrogate pair"),
    ],
)
def test_bad_fields_are_400_and_named(body, param, text):
    backend = Painter()
    error = error_of(generate(backend, **body), 400)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param and text in error["message"] and len(error["message"]) <= 1000
    assert backend.wishes == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no json",
        b"[1]",
        b'"prompt"',
        b"\xff",
        b'{"prompt": "\xed\xa0\x80"}',
        '{"prompt": "a"}'.encode("utf-16"),
        b"[" * 200_000,
        b'{"a":' * 50_000,
        b'{"prompt": "a", "n": ' + b"1" * 5000 + b"}",
        b'{"prompt": "a", "prompt": "b"}',
        b'{"prompt": "a", "guidance_scale": 1e999}',
    ],
)
def test_a_body_that_is_no_plain_object_is_400(content):
    error_of(call(Painter(), "POST", "/v1/images/generations", content=content), 400)


@pytest.mark.parametrize("prompt", ["😀👩‍👩‍👧 blob", "قطة سعيدة", "שלום\u202eabc", "e\u0301 ñ 猫", "😀" * 4000])
def test_prompts_of_any_script_reach_the_picture_unchanged(prompt):
    answer = generate(Painter(), prompt=prompt)
    assert answer.status_code == 200, answer.text
    assert drawn(answer)[0]["prompt"] == prompt


def test_text_that_utf_8_cannot_write_is_refused_wherever_it_stands_and_whole_pairs_are_not():
    for text, param in ((r'{"a": {"b": ["x", "\ud83d"]}}', "a.b[1]"), (r'["\uDC00"]', "[0]"), (r'"\ud83d"', None)):
        with pytest.raises(RequestError, match="half of a surrogate pair") as caught:
            parse_json(text.encode())
        assert caught.value.param == param
    assert parse_json(rb'["\ud83d\ude00", "\\ud83d"]') == ["😀", r"\ud83d"]


def test_a_body_that_is_too_long_is_413_without_being_read_whole():
    parts = []

    async def ten_megabytes():
        for _ in range(160):
            parts.append(1)
            yield b"a" * 65536

    answer = call(Painter(), "POST", "/v1/images/generations", content=ten_megabytes())
    assert error_of(answer, 413)["code"] == "body_too_long"
    assert len(parts) < 160 or generate(Painter(), prompt="a" * 10_000_000).status_code == 413


def test_another_model_is_404():
    assert error_of(generate(Painter(), prompt="a", model="dall-e-3"), 404)["code"] == "model_not_found"
    assert error_of(call(Painter(), "GET", "/v1/models/dall-e-3"), 404)["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("fault", "status", "code", "wait"),
    [
        (Overloaded(2.5), 503, "overloaded", "3"),
        (Overloaded(), 503, "overloaded", "1"),
        (TaskTimeout(), 504, "timeout", "5"),
        (ConfigError("this model has no such thing"), 400, None, None),
        (StoreError("no connection"), 503, "store_unreachable", "5"),
        (DatasetError("the log lacks version 3: no connection"), 503, "store_unreachable", "5"),
    ],
)
def test_what_the_backend_refuses_is_answered_so_that_clients_know_when_to_come_back(fault, status, code, wait):
    answer = generate(Painter(fail=fault), prompt="a", n=3)
    assert error_of(answer, status)["code"] == code
    assert answer.headers.get("retry-after") == wait


def test_a_crash_is_500_in_the_same_shape_tells_nothing_inside_and_is_not_tried_again(caplog):
    answer = generate(Painter(fail=RuntimeError("secret")), prompt="a")
    assert error_of(answer, 500)["type"] == "server_error"
    assert "secret" not in answer.text and answer.headers["x-should-retry"] == "false"
    assert "secret" in caplog.text and answer.headers["x-request-id"] in caplog.text


def test_the_first_problem_gives_up_the_other_images():
    backend = Painter(fail=lambda wish: Overloaded(1) if wish.draw.seed == 3 else None, delay_s=5)
    assert generate(backend, prompt="a", n=4, seed=0).status_code == 503
    assert backend.freed == 3 and not backend.rows


@pytest.mark.parametrize("stream", [False, True])
def test_images_that_all_fail_leave_nothing_but_one_line_in_the_log(stream, caplog):
    caplog.set_level(logging.INFO, "emoji_ldm.serve")
    assert generate(Painter(fail=Overloaded()), prompt="a", n=3, stream=stream).status_code == 503
    gc.collect()
    assert [record.name for record in caplog.records if "httpx" not in record.name] == ["emoji_ldm.serve"]


def test_unknown_paths_and_methods_name_the_known_ones():
    for method, path, status in (("GET", "/v1/images", 404), ("GET", "/v1/images/generations", 405)):
        assert "POST /v1/images/generations" in error_of(call(Painter(), method, path), status)["message"]


@pytest.mark.parametrize(("ready", "status"), [(True, 200), (False, 503)])
def test_health_follows_the_backend(ready, status):
    assert call(Painter(is_ready=ready), "GET", "/health").status_code == status


def test_the_models_are_listed_with_what_they_allow():
    first, second = call(Painter(), "GET", "/v1/models").json()["data"]
    assert first["id"] == "demo-1" and first["schedulers"] == ["ddim", "euler"] and second["max_steps"] == 8
    assert call(Painter(), "GET", "/v1/models/flow-1").json() | {"created": second["created"]} == second


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
@pytest.mark.parametrize("background", ["auto", "opaque", "transparent"])
def test_files_are_of_the_kind_and_background_asked_for_and_keep_their_parameters(kind, background):
    if (kind, background) == ("jpeg", "transparent"):
        return
    answer = generate(Painter(), prompt="ein Bär 😀", seed=4, output_format=kind, background=background)
    wants_alpha = background != "opaque" and kind != "jpeg"
    assert answer.json()["background"] == ("transparent" if wants_alpha else "opaque")
    with Image.open(io.BytesIO(files_of(answer)[0])) as image:
        assert image.format == kind.upper() and image.mode == ("RGBA" if wants_alpha else "RGB")
        if not wants_alpha:
            assert min(image.getpixel((32, 60))) > 250  # what was clear lies on white
        comment = image.getexif().get_ifd(0x8769).get(0x9286, b"")
        text = image.text["parameters"] if kind == "png" else comment.removeprefix(b"UNICODE\0").decode("utf-16-be")
    assert text.startswith("ein Bär 😀\n") and "Seed: 4" in text


def test_lossless_webp_holds_the_same_pixels_and_less_quality_makes_smaller_files():
    as_png, as_webp, as_jpeg, small_jpeg = (
        files_of(generate(Painter(), prompt="a", seed=1, **options))[0]
        for options in ({}, {"output_format": "webp"}, {"output_format": "jpeg"},
                        {"output_format": "jpeg", "output_compression": 10}))  # fmt: skip
    with Image.open(io.BytesIO(as_png)) as one, Image.open(io.BytesIO(as_webp)) as two:
        assert one.tobytes() == two.tobytes()
    assert len(small_jpeg) < len(as_jpeg)


def test_an_edit_starts_from_the_picture_and_a_mask_draws_its_clear_part_anew():
    files = {"image": ("a.png", picture()), "mask": ("m.png", picture(colour=(0, 0, 0, 0)))}
    answer = edit(Painter(), files, prompt="a hat", n="2", seed="5", guidance_scale="2.5")
    assert answer.status_code == 200, answer.text
    assert [draw["seed"] for draw in drawn(answer)] == [5, 6]
    assert {(draw["image"], draw["mask"], draw["strength"]) for draw in drawn(answer)} == {
        (len(files["image"][1]), len(files["mask"][1]), 1.0)}  # fmt: skip
    plain = drawn(edit(Painter(), {"image": ("a.jpg", picture(mode="RGB", kind="JPEG"))}, prompt="a hat"))
    assert plain[0]["strength"] == 0.8 and plain[0]["mask"] == 0


@pytest.mark.parametrize(
    ("files", "fields", "param", "text"),
    [
        ({"image": ("a.png", b"no picture")}, {}, "image", "image cannot be read"),
        ({"image": ("a.png", picture()[:60])}, {}, "image", "image cannot be read"),
        ({"image": ("a.png", b"")}, {}, "image", "empty"),
        ({"image": ("a.svg", b"<svg/>")}, {}, "image", "give a PNG, JPEG, WebP or GIF"),
        ({"mask": ("a.png", picture())}, {}, "image", "missing"),
        ({"picture": ("a.png", picture())}, {}, "picture", "unknown file"),
        ([("image[]", ("a.png", picture())), ("image[]", ("b.png", picture()))], {}, "image", "starts from one"),
        ({"image": ("a.png", picture()), "mask": ("m.png", picture(16, colour=(0, 0, 0, 0)))}, {}, "mask", "16x16"),
        ({"image": ("a.png", picture()), "mask": ("m.png", picture())}, {}, "mask", "nothing to draw"),
        ({"image": ("a.png", picture(4097, mode="L"))}, {}, "image", "8 to 4096 px"),
        ({"image": ("a.png", picture())}, {"strength": "1.5"}, "strength", "less than or equal to 1"),
        ({"image": ("a.png", picture())}, {"strength": "nan"}, "strength", "finite"),
        ({"image": ("a.png", picture())}, {"strength": "0"}, "strength", "greater than 0"),
        ({"image": ("a.png", picture())}, {"input_fidelity": "high"}, "input_fidelity", "use strength"),
        ({"image": ("a.png", picture())}, {"n": "two"}, "n", "valid integer"),
        ({"image": ("a.png", picture())}, {"seed": ["1", "2"]}, "seed", "twice"),
        ({"image": ("a.png", picture())}, {"prompt": "a" * 70_000}, None, "exceeded maximum size"),
    ],
)
def test_bad_forms_are_400_and_say_what_to_send(files, fields, param, text):
    backend = Painter()
    error = error_of(edit(backend, files, **{"prompt": "a hat", **fields}), 400)
    assert error["param"] == param and text in error["message"]
    assert backend.wishes == []


def test_an_edit_that_is_no_form_or_too_long_is_refused():
    assert error_of(call(Painter(), "POST", "/v1/images/edits", json={"prompt": "a"}), 415)
    assert error_of(edit(Painter(), {"image": ("a.png", b"\0" * 9_000_000)}, prompt="a"), 413)["param"] == "image"
    assert error_of(edit(Painter(), {"image": ("a.png", b"\0" * 18_000_000)}, prompt="a"), 413)
    headers = {"content-type": "multipart/form-data"}
    assert error_of(call(Painter(), "POST", "/v1/images/edits", content=b"--x", headers=headers), 400)


def test_pictures_that_wait_are_held_within_bounds_whole_and_streamed_and_their_room_is_free_again(monkeypatch):
    image = {"image": ("a.png", picture())}
    monkeypatch.setattr(fan_out, "MAX_PICTURE_BYTES", 5 * len(image["image"][1]))
    assert error_of(edit(Painter(), image, prompt="a", n="6"), 413)["param"] == "n"

    async def crowd(stream):
        transport = httpx.ASGITransport(build_api(Painter(delay_s=0.1)))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            fields = {"prompt": "a", "n": "3", "stream": stream}
            ask = lambda: client.post("/v1/images/edits", files=image, data=fields)  # noqa: E731
            several = await asyncio.gather(ask(), ask(), ask())
            return sorted(answer.status_code for answer in (*several, await ask()))

    assert [asyncio.run(crowd(stream)) for stream in ("false", "true")] == [[200, 200, 503, 503]] * 2


def test_pictures_are_finished_while_all_threads_of_the_loop_wait_for_a_store():
    hangs = threading.Event()

    async def answered():
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        asyncio.get_running_loop().run_in_executor(None, hangs.wait)
        transport, body = httpx.ASGITransport(build_api(Painter())), {"prompt": "a", "output_format": "webp"}
        try:
            async with asyncio.timeout(20), httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                one = await client.post("/v1/images/generations", json=body)
                other = await client.post("/v1/images/edits", data=body, files={"image": ("a.png", picture())})
                return one.status_code, other.status_code
        finally:
            hangs.set()

    assert asyncio.run(answered()) == (200, 200)


def test_each_request_is_one_line_in_the_log_without_its_prompt(caplog):
    caplog.set_level(logging.INFO, "emoji_ldm.serve")
    answer = call(Painter(), "POST", "/v1/images/generations", headers={"x-request-id": "mine-1"},
                  json={"prompt": "a secret cat", "n": 2, "user": "u-1"})  # fmt: skip
    call(Painter(), "GET", "/health")
    [line] = [json.loads(record.getMessage()) for record in caplog.records if record.name == "emoji_ldm.serve"]
    assert answer.headers["x-request-id"] == line["request_id"] == "mine-1"
    wanted = {"route": "/v1/images/generations", "model": "demo-1", "n": 2, "steps": 30, "status": 200, "user": "u-1",
              "bytes_out": len(answer.content), "key": ""}  # fmt: skip
    assert line.items() >= wanted.items() and "secret" not in json.dumps(line)
    call(Painter(), "POST", "/v1/images/generations", ServeConfig(log_prompts=True), json={"prompt": "a cat"})
    assert json.loads(caplog.records[-1].getMessage())["prompt"] == "a cat"


def test_a_request_id_that_could_forge_a_log_is_replaced():
    answer = call(Painter(), "GET", "/health", headers={"x-request-id": 'a"} {'})
    assert answer.headers["x-request-id"].startswith("req_")


def test_pages_of_other_origins_are_let_in_only_if_configured():
    asks = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    assert call(Painter(), "OPTIONS", "/v1/images/generations", headers=asks).status_code == 405
    settings = ServeConfig(cors_origins=("https://a.example",))
    let_in = call(Painter(), "OPTIONS", "/v1/images/generations", settings, headers=asks)
    assert let_in.status_code == 200 and let_in.headers["access-control-allow-origin"] == "https://a.example"
    other = call(Painter(), "GET", "/v1/models", settings, headers={"Origin": "https://b.example"})
    assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize(
    ("origin", "method", "origins", "status"),
    [
        ("https://evil.example", "POST", (), 403),
        ("null", "POST", (), 403),
        ("http://test.evil.example", "POST", (), 403),
        ("http://test:81", "POST", (), 403),
        ("https://a.example", "DELETE", (), 403),
        ("https://evil.example", "POST", ("https://a.example",), 403),
        ("https://a.example", "POST", ("https://a.example",), 200),
        ("https://a.example", "POST", ("*",), 200),
        ("https://Test", "POST", (), 200),
        ("https://evil.example", "GET", (), 200),
    ],
)
def test_pages_of_foreign_origins_change_nothing(origin, method, origins, status):
    backend, path = Painter(), "/v1/models" if method == "GET" else "/v1/images/generations"
    headers = {"Origin": origin, "Content-Type": "text/plain"}
    answer = call(backend, method, path, ServeConfig(cors_origins=origins), headers=headers, content='{"prompt": "a"}')
    assert answer.status_code == status and len(backend.wishes) == (status == 200 and method == "POST")
    if status == 403:
        assert "serve.cors_origins" in error_of(answer, 403)["message"]


def test_the_docs_are_one_page_that_needs_no_other_file_and_names_all_routes_and_fields():
    answer = call(Painter(), "GET", "/docs")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    assert not re.search(r"(src|href)=.?(https?:)?//|<script|@import|url\(", answer.text)
    assert 'href="openapi.json"' in answer.text
    for path, methods in call(Painter(), "GET", "/openapi.json").json()["paths"].items():
        assert all(f">{method.upper()}</span><code>{path}</code>" in answer.text for method in methods)
    assert all(f"<code>{field}</code>" in answer.text for field in (*ImageRequest.model_fields, "strength", "mask"))


def test_the_description_for_programs_tells_every_field_with_its_explanation():
    paths = call(Painter(), "GET", "/openapi.json").json()["paths"]
    for path, media_type in (("generations", "application/json"), ("edits", "multipart/form-data")):
        schema = paths[f"/v1/images/{path}"]["post"]["requestBody"]["content"][media_type]["schema"]
        assert set(ImageRequest.model_fields) <= set(schema["properties"]) and "prompt" in schema["required"]
        assert all(field.get("description") for field in schema["properties"].values())
    for methods in paths.values():
        assert all("4XX" in one["responses"] and "422" not in one["responses"] for one in methods.values())
    assert {"200", "400", "401", "413", "429", "503", "504"} <= set(paths["/v1/images/edits"]["post"]["responses"])


def test_steps_under_both_names_is_refused():
    with pytest.raises(RequestError, match="steps"):
        parse_request(b'{"prompt": "a", "steps": 3, "num_inference_steps": 3}', MODELS)
