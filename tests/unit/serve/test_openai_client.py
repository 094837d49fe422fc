"""The official OpenAI client against a real server: only `base_url` and `api_key` are ours."""

import asyncio
import base64
import io
import time
from types import SimpleNamespace

import openai
import pytest
from PIL import Image

from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.serve import image_quota
from emoji_ldm.serve.api_keys import new_key, write_keys
from emoji_ldm.serve.backend import Overloaded, TaskTimeout
from tests.unit.serve.fake_backend import FakeBackend, image_file, request_in, serving, wait_until


def client_of(url, **options):
    return openai.OpenAI(base_url=f"{url}/v1", api_key=options.pop("api_key", "none"), **options)


@pytest.fixture(scope="module")
def url():
    with serving(FakeBackend()) as url:
        yield url


@pytest.fixture(scope="module")
def client(url):
    with client_of(url) as client:
        yield client


def data_of(item):
    return base64.b64decode(item.b64_json)


@pytest.mark.parametrize("n", range(1, 11))
def test_n_images_come_in_order_and_the_same_request_gives_the_same_bytes(client, n):
    first, again = (client.images.generate(prompt="a cat", n=n, extra_body={"seed": 40}) for _ in range(2))
    assert [request_in(data_of(item))["seed"] for item in first.data] == list(range(40, 40 + n))
    assert [item.b64_json for item in first.data] == [item.b64_json for item in again.data]


@pytest.mark.parametrize("size", ["auto", "64x64", "32x128"])
@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
@pytest.mark.parametrize("background", ["auto", "opaque"])
def test_sizes_formats_and_backgrounds(client, size, kind, background):
    response = client.images.generate(prompt="a", size=size, output_format=kind, background=background, model="demo-1")
    with Image.open(io.BytesIO(data_of(response.data[0]))) as image:
        assert f"{image.width}x{image.height}" == response.size == (size if size != "auto" else "64x64")
        assert image.format == kind.upper() and response.output_format == kind
        assert ("A" in image.getbands()) == (response.background == "transparent")


def test_all_supported_options_of_the_client_take_effect(client):
    response = client.images.generate(
        prompt="a", quality="low", moderation="auto", response_format="b64_json", user="me", safety_identifier="me",
        output_format="webp", output_compression=70, background="transparent", n=None,
        extra_body={"negative_prompt": "dogs", "guidance_scale": 4, "scheduler": "euler", "lora": "blobs"},
    )  # fmt: skip
    assert response.quality == "low" and response.safety_identifier == "me" and response._request_id
    steps = client.images.generate(prompt="a", extra_body={"num_inference_steps": 9}).data[0]
    assert request_in(data_of(steps))["steps"] == 9


@pytest.mark.parametrize("partials", [0, 1, 2, 3])
def test_a_stream_gives_previews_then_the_image(client, partials):
    *previews, last = client.images.generate(prompt="a", stream=True, partial_images=partials, extra_body={"seed": 7})
    assert [event.partial_image_index for event in previews] == list(range(partials))
    assert {event.type for event in previews} <= {"image_generation.partial_image"}
    assert last.type == "image_generation.completed" and last.size == "64x64" and last.output_format == "png"
    whole = client.images.generate(prompt="a", extra_body={"seed": 7})
    assert last.b64_json == whole.data[0].b64_json


def test_a_client_that_wants_it_is_told_its_place_in_the_queue(client):
    wanted = {"seed": 7, "queue_events": True}
    *events, last = client.images.generate(prompt="a", stream=True, partial_images=1, extra_body=wanted)
    places = [(event.place, event.eta_s) for event in events if event.type == "image_generation.queued"]
    assert places == [(2, 3.0), (0, 0.0)] and last.type == "image_generation.completed"
    # Who does not ask gets the events of OpenAI alone, and without a stream there is nobody to tell.
    events = client.images.generate(prompt="a", stream=True, partial_images=1)
    assert not any(event.type.endswith("queued") for event in events)
    with pytest.raises(openai.BadRequestError, match="queue_events"):
        client.images.generate(prompt="a", extra_body={"queue_events": True})


def test_events_of_several_images_carry_their_image_index(client):
    events = list(client.images.generate(prompt="a", stream=True, n=4, partial_images=1, extra_body={"seed": 0}))
    done = [event for event in events if event.type.endswith("completed")]
    assert len(events) == 8 and sorted(event.image_index for event in done) == [0, 1, 2, 3]
    assert all(request_in(data_of(event))["seed"] == event.image_index == event.seed for event in done)


def test_edits_with_and_without_a_mask_whole_and_streamed(client):
    image, mask = ("a.png", image_file()), ("m.png", image_file(colour=(0, 0, 0, 0)))
    one = client.images.edit(image=image, prompt="a hat")
    several = client.images.edit(image=[image], mask=mask, prompt="a hat", n=3, size="64x64", output_format="webp",
                                 extra_body={"seed": 3, "strength": 0.5})  # fmt: skip
    assert request_in(data_of(one.data[0]))["image"] and len(several.data) == 3 and several.output_format == "webp"
    *previews, last = client.images.edit(image=image, mask=mask, prompt="a", stream=True, partial_images=2)
    assert [event.type for event in previews] == ["image_edit.partial_image"] * 2
    assert last.type == "image_edit.completed" and request_in(data_of(last))["mask"]


def test_models_can_be_listed_and_retrieved(client):
    assert [model.id for model in client.models.list()] == ["demo-1", "flow-1"]
    assert client.models.retrieve("flow-1").owned_by == "emoji_ldm"


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"prompt": "", "n": 1}, openai.BadRequestError),
        ({"prompt": "a", "n": 11}, openai.BadRequestError),
        ({"prompt": "a", "size": "7x7"}, openai.BadRequestError),
        ({"prompt": "a", "response_format": "url"}, openai.BadRequestError),
        ({"prompt": "a", "style": "vivid"}, openai.BadRequestError),
        ({"prompt": "a", "model": "dall-e-3"}, openai.NotFoundError),
        ({"prompt": "a" * 10_000_000}, openai.APIStatusError),
    ],
)
def test_refusals_raise_the_exceptions_of_the_client(client, options, kind):
    with pytest.raises(kind) as caught:
        client.images.generate(**options)
    assert caught.value.body["message"] and caught.value.request_id
    assert caught.value.type in ("invalid_request_error", "not_found_error")


def test_an_unknown_model_and_path_are_not_found(client):
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt")
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="demo-1", messages=[])


@pytest.mark.slow
def test_the_client_retries_an_overloaded_service_after_the_given_pause():
    backend = FakeBackend(num_refusals=1)
    with serving(backend) as url, client_of(url, max_retries=2) as client:
        began = time.monotonic()
        assert client.images.generate(prompt="a").data
        assert time.monotonic() - began >= 1, "Retry-After says a second"
        assert len(backend.tasks) == 2


@pytest.mark.parametrize(
    ("fault", "status", "tries"), [(Overloaded(), 503, 1), (TaskTimeout(), 504, 1), (RuntimeError("x"), 500, 1)]
)
def test_failures_are_server_errors_and_a_crash_is_not_retried(fault, status, tries):
    backend = FakeBackend(error=fault)
    with serving(backend) as url, client_of(url, max_retries=2 if status == 500 else 0) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            client.images.generate(prompt="a")
        assert caught.value.status_code == status and len(backend.tasks) == tries


def test_an_error_before_the_first_event_has_its_status_and_a_later_one_is_an_event():
    backend = FakeBackend(error=lambda task: RuntimeError("secret") if task.request.seed == 1 else None)
    with (
        serving(backend) as url,
        client_of(url, max_retries=0) as client,
        pytest.raises(openai.InternalServerError),
    ):
        list(client.images.generate(prompt="a", stream=True, extra_body={"seed": 1}))

    class Late(FakeBackend):
        async def stream(self, task, partials):
            async for item in super().stream(task, partials):
                yield item
                raise TaskTimeout

    with serving(Late()) as url, client_of(url, max_retries=0) as client:
        stream = iter(client.images.generate(prompt="a", stream=True, partial_images=1))
        assert next(stream).type == "image_generation.partial_image"
        with pytest.raises(openai.APIError, match="not generated in time"):
            next(stream)


def test_keys_kinds_and_quotas_raise_the_exceptions_of_the_client(tmp_path, monkeypatch):
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)  # so that the test lies within one minute of the clock
    path = str(tmp_path / "keys.json")
    (few, one), (jobs, two) = new_key("few", "interactive", 2, None), new_key("jobs", "bulk", 0, None)
    write_keys(path, (one, two))
    with serving(FakeBackend(), ServeConfig(keys=path)) as url:
        with pytest.raises(openai.AuthenticationError):
            client_of(url, api_key="wrong").images.generate(prompt="a")
        with pytest.raises(openai.PermissionDeniedError):
            client_of(url, api_key=jobs).images.generate(prompt="a")
        assert client_of(url, api_key=jobs).models.list().data
        client = client_of(url, api_key=few, max_retries=0)
        assert client.images.generate(prompt="a", n=2).data
        with pytest.raises(openai.RateLimitError) as caught:
            client.images.generate(prompt="a")
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60


@pytest.fixture
def a_minute_ends_soon(monkeypatch):
    """For quotas, whose minutes are those of the clock."""
    now = time.time
    ahead_s = 55 - now() % 60
    monkeypatch.setattr(image_quota, "time", SimpleNamespace(time=lambda: now() + ahead_s))


@pytest.mark.slow
@pytest.mark.usefixtures("a_minute_ends_soon")
def test_a_client_over_its_quota_retries_after_the_given_pause_unless_that_is_minutes(tmp_path):
    path, backend = str(tmp_path / "keys.json"), FakeBackend()
    (busy, one), (owing, two) = new_key("busy", "interactive", 60, None), new_key("owing", "interactive", 1, None)
    write_keys(path, (one, two))
    with serving(backend, ServeConfig(keys=path)) as url, client_of(url, api_key=busy, max_retries=2) as client:
        for _ in range(6):
            client.images.generate(prompt="a", n=10)
        assert client.images.generate(prompt="a").data, "the client came again when a token was there"
        debtor = client_of(url, api_key=owing, max_retries=2)
        debtor.images.generate(prompt="a", n=4)
        with pytest.raises(openai.RateLimitError) as caught:  # at once: it waits two minutes at most
            debtor.images.generate(prompt="a")
        assert 230 <= int(caught.value.response.headers["retry-after"]) <= 240
        assert len(backend.tasks) == 65


def test_the_asynchronous_client_may_send_many_requests_at_once(url):
    async def draw_all():
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
            calls = (client.images.generate(prompt=f"cat {index}", extra_body={"seed": index}) for index in range(20))
            responses = await asyncio.gather(*calls)
            stream = await client.images.generate(prompt="a", stream=True, partial_images=1)
            return responses, [event.type async for event in stream]

    responses, kinds = asyncio.run(draw_all())
    assert [request_in(data_of(response.data[0]))["prompt"] for response in responses] == [
        f"cat {index}" for index in range(20)
    ]
    assert kinds == ["image_generation.partial_image", "image_generation.completed"]


@pytest.mark.slow
def test_a_client_that_times_out_or_closes_a_stream_frees_its_tasks():
    backend = FakeBackend(delay_s=30)
    with serving(backend) as url, client_of(url, max_retries=0, timeout=0.3) as client:
        with pytest.raises(openai.APITimeoutError):
            client.images.generate(prompt="a", n=3)
        wait_until(lambda: backend.num_cancelled == 3 and not backend.running)
    backend = FakeBackend(delay_s=0.02)
    with serving(backend) as url, client_of(url) as client:
        stream = client.images.generate(prompt="a", n=2, stream=True, partial_images=3)
        next(iter(stream))
        backend.delay_s = 30
        stream.close()
        wait_until(lambda: backend.num_cancelled == 2 and not backend.running)
