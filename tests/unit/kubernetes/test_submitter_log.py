"""The log of a submitter: lines as they come, stack traces of the driver, but none of Ray's client."""

from emoji_ldm.kubernetes.submitter_log import print_log
from tests.unit.kubernetes.test_job_follower import CLIENT_TRACE

DRIVER_TRACE = """Traceback (most recent call last):
  File "/app/ray_jobs/train.py", line 3, in run
    raise ValueError(1)
ValueError: 1
""".splitlines(keepends=True)


def test_a_trace_of_the_driver_is_printed_in_its_place(capsys):
    print_log(["one\n", *DRIVER_TRACE, "two\n"])
    assert capsys.readouterr().out == "".join(["one\n", *DRIVER_TRACE, "two\n"])


def test_a_trace_of_the_driver_at_the_end_is_printed(capsys):
    print_log(DRIVER_TRACE)
    assert capsys.readouterr().out == "".join(DRIVER_TRACE)


def test_a_chain_of_traces_of_the_client_is_one_line(capsys):
    print_log(["one\n", *(f"{line}\n" for line in CLIENT_TRACE)])
    printed, said = capsys.readouterr()
    assert printed == "one\n"
    assert said == "the submitter lost the cluster: RuntimeError: Failed to connect to Ray at http://head:8265\n"


def test_a_long_error_of_the_client_is_cut(capsys):
    *frames, _ = CLIENT_TRACE
    cause = "Max retries exceeded with url: /api/jobs/train (Caused by NewConnectionError('<urllib3 object at 0x7f>'))"
    error = f"requests.exceptions.ConnectionError: HTTPConnectionPool(host='head', port=8265): {cause}"
    print_log(f"{line}\n" for line in [*frames, error])
    said = capsys.readouterr().err
    assert said.startswith("the submitter lost the cluster: requests.exceptions.ConnectionError: ")
    assert said.endswith(" …\n") and len(said) < 160


def test_lines_are_printed_as_they_come_and_not_at_the_end(capsys):
    def lines():
        yield "one\n"
        assert capsys.readouterr().out == "one\n"
        yield "two\n"

    print_log(lines())
