"""Ray Data to commits: every shard exactly once, errors for the user as themselves."""

import dataclasses
import time

import pyarrow as pa
import pytest

from emoji_ldm.config import Config, RayConfig
from emoji_ldm.dataset.lineage import Lineage, RunInfo
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import JobError, ModelError
from emoji_ldm.schemas import TEXT_EMBEDDINGS
from emoji_ldm.store import Store
from ray_jobs.execution import delta_sink, ray_runtime


def read(payload):
    return pa.table({"key": payload["keys"]})


class Echo:
    """Makes a row of each key; refuses the key `boom` as a stage refuses missing weights, once others are committed."""

    def __init__(self, store=None, wait_for_version=0):
        self.store, self.wait_for_version = store, wait_for_version

    def __call__(self, rows):
        keys = rows["key"].to_pylist()
        if "boom" in keys:
            while Table(self.store, TEXT_EMBEDDINGS).version < self.wait_for_version:
                time.sleep(0.05)
            raise ModelError("no weights in ./here; fetch them first")
        columns = {
            "text_id": keys,
            "caption": keys,
            "encoder_key": keys,
            "shape": [[1]] * len(keys),
            "hidden_states": [b"x"] * len(keys),
        }
        return delta_sink.ShardOutput(pa.table(columns, schema=TEXT_EMBEDDINGS.schema), {"made": len(keys)})


@pytest.fixture
def job(tmp_path):
    return delta_sink.SinkJob("texts", Store(str(tmp_path)), TEXT_EMBEDDINGS, read, Echo, (), num_workers=2)


def shards(count, size=3):
    return [delta_sink.WorkShard(f"s{i}", {"keys": [f"{i}-{j}" for j in range(size)]}, size) for i in range(count)]


@pytest.mark.slow
def test_every_shard_is_a_version_and_a_second_run_commits_nothing(job):
    lineage = Lineage(RunInfo("default", Config().to_json()), "texts", {"captions": 3})
    assert delta_sink.run(job, shards(5), lineage) == {"made": 15}
    table = Table(job.store, TEXT_EMBEDDINGS)
    assert (table.count(), len(table.keys()), table.version) == (15, 15, 5)
    assert delta_sink.run(job, shards(5), lineage) == {}
    assert Table(job.store, TEXT_EMBEDDINGS).version == 5


@pytest.mark.slow
def test_an_error_for_the_user_arrives_as_itself_and_what_is_committed_before_it_stays(job):
    table, lineage = Table(job.store, TEXT_EMBEDDINGS), Lineage(RunInfo("default", Config().to_json()), "texts", {})
    job = dataclasses.replace(job, worker_args=(job.store, 1))
    bad = delta_sink.WorkShard("bad", {"keys": ["boom"]})
    with pytest.raises(ModelError, match=r"no weights in \./here"):
        delta_sink.run(job, [*shards(3), bad], lineage)
    table.refresh()
    committed, num_committed = set(table.keys()), table.version  # how many of the others came first is up to Ray
    assert num_committed >= 1 and len(committed) == 3 * num_committed
    assert committed < {f"{i}-{j}" for i in range(3) for j in range(3)} or num_committed == 3
    mended = delta_sink.WorkShard("bad", {"keys": ["fine"]})
    made = {"made": 10 - len(committed)}
    assert delta_sink.run(job, [*shards(3), mended], lineage) == made, "what is committed is not committed again"
    assert Table(job.store, TEXT_EMBEDDINGS).count() == 10


@pytest.mark.slow
def test_a_resource_that_the_cluster_lacks_is_named(job):
    config = RayConfig(place_timeout_s=1)
    with pytest.raises(JobError, match=r"caption needs 2 GPU .* the cluster has 0.*lower its number"):
        ray_runtime.wait_for_resources(config, "caption", 2, num_cpus=0.5, num_gpus=1)


class Recording(Echo):
    """Leaves a file for each shard that it begins."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def __call__(self, rows):
        (self.folder / rows["key"][0].as_py()).touch()
        return super().__call__(rows)


@pytest.mark.slow
@pytest.mark.long
def test_work_runs_ahead_of_commits_by_one_shard_per_worker_and_one_more(job, tmp_path):
    folder = tmp_path / "begun"
    folder.mkdir()
    job = dataclasses.replace(job, worker=Recording, worker_args=(folder,))
    for committed, _ in enumerate(delta_sink.stream_shards(job, shards(12))):
        time.sleep(0.3)  # a slow commit, during which workers go as far as they may
        assert len(list(folder.iterdir())) <= committed + job.num_workers + 1
    assert committed == 11
