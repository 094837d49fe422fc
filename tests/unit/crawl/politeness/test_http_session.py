"""Sessions, redirects, Retry-After, and bodies in an encoding that was not asked for."""

import gzip
import zlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from emoji_ldm.crawl.politeness.http_session import ContentDecoder, retry_after
from emoji_ldm.outcomes import Outcome, Rejected

TEXT = b"emoji " * 1000


def seconds(value):
    return retry_after(CIMultiDictProxy(CIMultiDict({"Retry-After": value})))


def test_retry_after_is_a_number_or_a_date():
    assert seconds("120") == 120
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert 80 < seconds(later) <= 90


@pytest.mark.parametrize("value", ["", "soon", "-5", "1.5", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_an_invalid_or_past_retry_after_is_zero(value):
    assert seconds(value) == 0


@pytest.mark.parametrize(("encoding", "encode"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("", bytes)])
def test_a_body_is_decoded_chunk_by_chunk(encoding, encode):
    decoder, body = ContentDecoder(encoding), encode(TEXT)
    chunks = [body[start : start + 7] for start in range(0, len(body), 7)]
    assert b"".join(decoder.decode(chunk, 10**6) for chunk in chunks) == TEXT
    decoder.finish()


def test_no_more_is_decoded_than_asked_for():
    assert len(ContentDecoder("gzip").decode(gzip.compress(bytes(10**7)), 1000)) == 1000


def test_an_unknown_encoding_is_rejected():
    with pytest.raises(Rejected, match="Content-Encoding 'br'") as caught:
        ContentDecoder("br")
    assert caught.value.outcome is Outcome.HTTP_ERROR


def test_a_truncated_body_is_rejected():
    decoder = ContentDecoder("gzip")
    decoder.decode(gzip.compress(TEXT)[:-10], 10**6)
    with pytest.raises(Rejected, match="ends too soon"):
        decoder.finish()
