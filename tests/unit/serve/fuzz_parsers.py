"""Coverage-guided fuzzing of what reads bytes from strangers, with Atheris; a script, since Atheris is no dependency.

    python -m tests.unit.serve.fuzz_parsers json|image [-max_total_time=600] [CORPUS]

A target refuses bad bytes by `RequestError` or `ConfigError`; anything else ends the run with the input that did it.
"""

import io
import sys

import atheris

with atheris.instrument_imports(include=["emoji_ldm", "PIL", "pydantic", "json"]):
    from emoji_ldm.errors import ConfigError
    from emoji_ldm.serve.backend import RequestLimits
    from emoji_ldm.serve.bulk.api.job_requests import lines_of_file, parse_set_request
    from emoji_ldm.serve.decoding_pool import refuse_by_header
    from emoji_ldm.serve.errors import RequestError
    from emoji_ldm.serve.image_sandbox import prepare
    from emoji_ldm.serve.request_body import parse_json
    from emoji_ldm.serve.request_validation import parse_request

MODELS = {"demo-1": RequestLimits("demo-1", "0a", 64, 64, 16, 128, 10, 100, ("ddim",), ("blobs",))}


def read_json(data):
    """The bodies of image requests and sets, and lines of JSONL."""
    for read in (
        lambda: parse_request(data, MODELS),
        lambda: parse_set_request(parse_json(data)),
        lambda: [*lines_of_file(io.BytesIO(data), parse_set_request({}), MODELS, 1)],
    ):
        try:
            read()
        except RequestError as error:
            error.response()


def read_image(data):
    """What the decoding process does with an upload, with and without a mask."""
    half = len(data) // 2
    for image, mask in ((data, b""), (data[:half], data[half:])):
        try:
            refuse_by_header(image, "image")
            prepare(image, mask, 64, 64)
        except (RequestError, ConfigError):
            pass


if __name__ == "__main__":
    target = {"json": read_json, "image": read_image}[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()
