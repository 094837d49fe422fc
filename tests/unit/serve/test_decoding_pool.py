"""Uploads that would hold a decoder up: refused by their header, or ended with their process; others go on."""

import asyncio
import sys
import time

import pytest

from emoji_ldm.serve import decoding_pool
from emoji_ldm.serve.backend import Overloaded
from emoji_ldm.serve.decoding_pool import DecodingPool, refuse_by_header
from emoji_ldm.serve.errors import RequestError
from tests.unit.images.image_bytes import many_scans
from tests.unit.serve.fake_backend import image_file

PHOTO = image_file()


@pytest.fixture
def make_pool():
    pools = []

    def make(work="", **options):
        pools.append(DecodingPool(**options))
        if work:  # in place of the decoder
            script = (
                f"from emoji_ldm.serve import image_sandbox as s\ndef work(*_):\n {work}\ns.prepare = work\ns.main()"
            )
            pools[-1].command = (sys.executable, "-c", script)
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()
        pool._threads.shutdown()


def prepare(pool, image=PHOTO, mask=b""):
    return asyncio.run(pool.prepare(image, mask, 64, 64))


def test_a_jpeg_of_hundreds_of_scans_is_refused_by_its_header(make_pool):
    pool = make_pool()
    with pytest.raises(RequestError, match="scans") as refusal:
        prepare(pool, many_scans(300))
    assert refusal.value.param == "image" and pool._idle.empty(), "no process was started for it"
    refuse_by_header(many_scans(0), "image")
    refuse_by_header(image_file(mode="RGB", kind="JPEG"), "image")


def test_one_process_decodes_upload_after_upload_and_names_what_is_wrong(make_pool):
    pool = make_pool()
    assert prepare(pool) == prepare(pool)
    with pytest.raises(RequestError, match="image cannot be read"):
        prepare(pool, b"no image")
    with pytest.raises(RequestError, match="mask is 16x16") as refusal:
        prepare(pool, mask=image_file(16))
    assert refusal.value.param == "mask" and pool._idle.qsize() == 1


@pytest.mark.slow
@pytest.mark.parametrize("work", ["while True: pass", "bytearray(3 * 2**30)", "import os; os.abort()"])
def test_a_file_that_takes_too_much_is_refused_and_the_next_one_gets_a_new_process(make_pool, work):
    pool, command = make_pool(work, cpu_s=0), DecodingPool.command
    with pytest.raises(RequestError, match="too much time or memory") as refusal:
        prepare(pool)
    assert refusal.value.status == 400
    pool.command, pool.cpu_s = command, 30
    assert prepare(pool)[0]


def test_a_process_that_sleeps_ends_by_the_clock(make_pool):
    with pytest.raises(RequestError, match="too much time"):
        prepare(make_pool("import time; time.sleep(600)", timeout_s=0.2))


def test_while_uploads_are_decoded_others_are_answered_and_too_many_are_refused(make_pool, monkeypatch):
    monkeypatch.setattr(decoding_pool, "MAX_WAITING", 1)
    pool = make_pool("import time; time.sleep(600)", timeout_s=0.5)

    async def run():
        slow, started = asyncio.create_task(pool.prepare(PHOTO, b"", 64, 64)), time.monotonic()
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await pool.prepare(PHOTO, b"", 64, 64)
        assert time.monotonic() - started < 0.4, "the event loop does not wait for the decoder"
        with pytest.raises(RequestError):
            await slow

    asyncio.run(run())
