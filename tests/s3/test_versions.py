"""Versions on a real S3 server: eight writing processes, all verbs; and servers that must be refused."""

import multiprocessing
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from emoji_ldm.dataset.table import Table
from emoji_ldm.dataset.verify import verify
from emoji_ldm.dataset.versions import branch, refs
from emoji_ldm.dataset.versions.compact import compact
from emoji_ldm.dataset.versions.diff import diff
from emoji_ldm.dataset.versions.restore import restore
from emoji_ldm.dataset.versions.vacuum import RetentionPolicy, apply_vacuum, plan_vacuum
from emoji_ldm.errors import StoreError
from emoji_ldm.schemas import TEXT_EMBEDDINGS
from emoji_ldm.store import Store
from tests.tables import RUN, embedding_rows, table_with_commits

NUM_WRITERS, NUM_COMMITS = 8, 20


def write(uri, writer):
    """What one of the racing processes does: appends, every fifth an upsert of a row that all want to change."""
    table = Table(Store(uri), TEXT_EMBEDDINGS)
    for number in range(NUM_COMMITS):
        name = f"{writer}-{number}"
        if number % 5 == 4:
            rows = embedding_rows("shared", caption=name)
            made = table.upsert([table.write_file(rows)], ["shared"], app_id=name, metadata={"writer": name})
        else:
            made = table.commit([table.write_file(embedding_rows(name))], app_id=name, metadata={"writer": name})
        assert made is not None


@pytest.mark.slow
@pytest.mark.long
def test_eight_processes_of_twenty_commits_give_160_versions(s3_uri):
    Store(s3_uri).check_writable()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    writers = [context.Process(target=write, args=(s3_uri, writer)) for writer in range(NUM_WRITERS)]
    [writer.start() for writer in writers]
    [writer.join(240) for writer in writers]
    assert [writer.exitcode for writer in writers] == [0] * NUM_WRITERS
    table = Table(Store(s3_uri), TEXT_EMBEDDINGS)
    assert table.version == NUM_WRITERS * NUM_COMMITS
    names = [entry["writer"] for entry in table.history() if "writer" in entry]
    assert len(names) == len(set(names)) == 160, "every commit is one version"
    rows = table.read(["text_id"])["text_id"].to_pylist()
    appended = {f"{w}-{n}" for w in range(NUM_WRITERS) for n in range(NUM_COMMITS) if n % 5 != 4}
    assert sorted(rows) == sorted({*appended, "shared"}), "none lost, none doubled"


@pytest.mark.slow
def test_the_verbs_do_on_s3_what_they_do_in_a_folder(s3_uri):
    store = Store(s3_uri)
    table = table_with_commits(store, "ab", "cd", "ef")
    refs.create_tag(store, "v1")
    tagged = table.read().sort_by("text_id")
    branch.create_branch(store, "try", "v1")
    own = Table(Store(s3_uri, "try"), TEXT_EMBEDDINGS)
    own.upsert([own.write_file(embedding_rows("a", caption="branch"))], ["a"], app_id="own", metadata={})
    table.upsert([], ["a", "c"], app_id="less", metadata={})
    assert compact(table, RUN).after == 1 and diff(Table(store, TEXT_EMBEDDINGS, 4), table).keys == set()
    assert diff(own, table).removed == ["a", "c"]
    policy = RetentionPolicy(keep_history="1", older_than="0h")
    what = plan_vacuum(store, policy)
    assert what.files and apply_vacuum(store, what, policy) > 0
    assert refs.open_tables(store, "v1", TEXT_EMBEDDINGS)["text_embeddings"].read().sort_by("text_id").equals(tagged)
    assert not verify({"text_embeddings": own}).problems and own.count() == 6
    restore(refs.resolve(store, "v1"), table, RUN)
    assert table.read().sort_by("text_id").equals(tagged)


class Careless(BaseHTTPRequestHandler):
    """An S3 server that takes any PUT, whatever its conditions; `refuses` answers the header with 501."""

    refuses = False
    protocol_version = "HTTP/1.1"  # answers "Expect: 100-continue", for which boto3 else waits a second

    def do_PUT(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(501 if self.refuses and self.headers.get("If-None-Match") else 200)

    def do_DELETE(self):
        self._answer(204)

    def _answer(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(("refuses", "text"), [(False, "ignores conditional PUT"), (True, "cannot write .*501")])
def test_a_server_without_conditional_put_is_refused_with_the_reason(refuses, text, monkeypatch):
    handler = type("Handler", (Careless,), {"refuses": refuses})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name, value in {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}", "AWS_ACCESS_KEY_ID": "x",
                            "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1"}.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        with pytest.raises(StoreError, match=text):
            Store("s3://bucket/store").check_writable()
        server.shutdown()
