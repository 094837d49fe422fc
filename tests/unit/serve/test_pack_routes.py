"""The routes of emoji packs."""

import asyncio
import io
import json
import os
import sys
import zipfile

import pytest
from PIL import Image

from emoji_ldm.config.serve import ServeConfig
from emoji_ldm.packs.pack_builder import PackOptions
from emoji_ldm.serve import image_quota, pack_processes, pack_routes
from emoji_ldm.serve.api_keys import new_key, write_keys
from emoji_ldm.serve.app import build_api
from emoji_ldm.serve.pack_processes import PackProcesses, PackUpload
from tests.unit.packs.pictures import face_png
from tests.unit.serve.asgi_client import call, error_of, send
from tests.unit.serve.fake_backend import FakeBackend


def pack(files, **fields):
    parts = [("image", (name, data, "image/png")) for name, data in files]
    return call(FakeBackend(), "POST", "/v1/packs", files=parts, data=fields)


def test_the_targets_and_their_limits_are_listed():
    targets = {each["id"]: each for each in call(FakeBackend(), "GET", "/v1/packs/targets").json()["targets"]}
    discord = targets["discord"]
    assert (discord["size_px"], discord["max_bytes"], discord["format"]) == (128, 262144, "png")
    assert discord["slots"] == [50, 100, 150, 250]
    assert all(each["source"] and each["checked"] for each in targets.values())


@pytest.mark.slow
def test_uploaded_pictures_become_a_pack_named_by_their_file_names():
    response = pack(
        [("happy.png", face_png()), ("so sad.png", face_png())], target="discord", name="Blobs", outline="3"
    )
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/zip"
    assert response.headers["content-disposition"] == 'attachment; filename="blobs-discord.zip"'
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert {"emoji/happy.png", "emoji/so_sad.png", "manifest.json", "LICENSE.txt"} == {*archive.namelist()}
        assert Image.open(io.BytesIO(archive.read("emoji/happy.png"))).size == (128, 128)
        assert json.loads(archive.read("manifest.json"))["outline_px"] == 3


@pytest.mark.slow
def test_a_file_that_is_no_picture_is_refused_by_its_name():
    error = error_of(pack([("fine.png", face_png()), ("paper.png", b"%PDF-1.7 ...")], target="slack"), 400)
    assert error["param"] == "image" and "paper.png: no known image format" in error["message"]


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({}, "target", "the field 'target' is missing"),
        ({"target": "discrod"}, None, "did you mean 'discord'"),
        ({"target": "discord", "outline": "wide"}, "outline", "a number of pixels"),
        ({"target": "discord", "outline": "90"}, None, "takes 0 to 16 px"),
        ({"target": "discord", "color": "red"}, "color", "is refused; known are: target, name"),
    ],
)
def test_a_wrong_field_is_refused_before_anything_is_made(fields, param, says, monkeypatch):
    monkeypatch.setattr(PackProcesses, "build", None)
    error = error_of(pack([("a.png", face_png())], **fields), 400)
    assert error["param"] == param and says in error["message"]


def test_too_many_files_and_too_long_ones_are_refused(monkeypatch):
    monkeypatch.setattr(pack_routes, "MAX_IMAGES", 2)
    assert "send 1 to 2 files" in error_of(pack([(f"{n}.png", b"x") for n in range(3)], target="slack"), 400)["message"]
    monkeypatch.setattr(pack_routes, "MAX_FILE_BYTES", 10)
    error_of(pack([("a.png", face_png())], target="slack"), 413)
    monkeypatch.setattr(pack_routes, "MAX_BODY_BYTES", 100)
    assert error_of(pack([("a.png", face_png())], target="slack"), 413)["code"] == "body_too_long"


@pytest.mark.slow
def test_a_pack_that_takes_too_much_time_is_refused_and_its_process_ends(monkeypatch):
    monkeypatch.setattr(PackProcesses, "command", ("sleep", "60", "#"))
    monkeypatch.setattr(pack_processes, "CLOCK_FACTOR", 0)
    assert "too much time or memory" in error_of(pack([("a.png", face_png())], target="slack"), 400)["message"]


@pytest.mark.slow
def test_the_kernel_ends_a_pack_that_takes_too_much_cpu_time(monkeypatch):
    monkeypatch.setattr(pack_processes, "MAX_CPU_S", 1)
    faces = [(f"{n}.png", face_png()) for n in range(30)]
    assert "too much time or memory" in error_of(pack(faces, target="telegram"), 400)["message"]


def test_a_fault_of_the_process_is_an_internal_error_that_the_log_explains(monkeypatch, caplog):
    code = "import sys; sys.exit('no such table')"
    monkeypatch.setattr(PackProcesses, "command", (sys.executable, "-c", code))
    error_of(pack([("a.png", face_png())], target="slack"), 500)
    assert "a pack failed: no such table" in caplog.text


def test_the_process_of_a_client_that_left_ends(monkeypatch, tmp_path):
    command = ("bash", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 60", "bash")
    monkeypatch.setattr(PackProcesses, "command", command)

    async def leave():
        options = PackOptions("slack")
        task = asyncio.create_task(PackProcesses().build(tmp_path, options, [PackUpload("a.png")]))
        async with asyncio.timeout(20):
            while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
                await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.slow
def test_a_pack_needs_a_key_that_may_draw_and_is_charged_by_tens(path, monkeypatch):
    monkeypatch.setattr(image_quota.time, "time", lambda: 1e9)  # quotas are those of a minute of the clock
    key, drawer = new_key("ann", "interactive", 1, None)
    read_only, reader = new_key("bob", "interactive", 0, None, ("read",))
    write_keys(path, (drawer, reader))
    api = build_api(FakeBackend(), ServeConfig(keys=path))
    form = {"files": [("image", (f"{n}.png", face_png(), "image/png")) for n in range(2)], "data": {"target": "slack"}}

    def send_as(secret):
        return send(api, "POST", "/v1/packs", headers={"Authorization": f"Bearer {secret}"}, **form)

    assert send(api, "POST", "/v1/packs", **form).status_code == 401
    assert send_as(read_only).status_code == 403
    assert send_as(key).status_code == 200
    assert send_as(key).status_code == 429
