"""Tests of job headers and ids, of job lines, and of the way they are cut into shards."""

import json

from emoji_ldm.generate.request import GenerationRequest
from emoji_ldm.serve.bulk.bulk_job import IMAGES_PER_SHARD, JOB_ID, BulkJob, JobLine, cut_shards, new_job_id, owner_hash


def test_an_idempotency_key_gives_one_id_per_owner_kind_and_generation():
    ids = {new_job_id(kind, owner, "k", generation)
           for kind in ("emoji_set", "batch") for owner in ("ann", "bob") for generation in (0, 1)}  # fmt: skip
    assert len(ids) == 8 and new_job_id("batch", "ann", "k") in ids
    assert all(JOB_ID.fullmatch(job_id) for job_id in ids)


def test_without_a_key_ids_are_random_and_start_with_the_hash_of_the_owner():
    ids = [new_job_id("emoji_set", "ann") for _ in range(100)]
    assert len(set(ids)) == 100 and all(job_id.startswith(f"set_{owner_hash('ann')}") for job_id in ids)
    assert owner_hash("ann") != owner_hash("bob")


def test_a_header_sums_the_lines_and_images_of_its_parts():
    job = BulkJob("set_0", "emoji_set", "ann", 0, 1, {}, parts=((1024, 2000), (3, 5)))
    assert (job.num_lines, job.num_images) == (1027, 2005)


def line(number, n):
    return JobLine(str(number), "demo", GenerationRequest("a cat", seed=100 * number), n)


def test_a_line_survives_its_json_which_omits_defaults():
    original = JobLine(
        "a", "demo", GenerationRequest("a\nb", seed=3, lora="pixel"), 5, 8, "{prompt}!", {"format": "webp"}
    )
    assert JobLine.from_json(original.to_json()) == original
    assert "\n" not in original.to_json()
    assert json.loads(original.to_json())["draw"] == {"prompt": "a\nb", "seed": 3, "lora": "pixel"}


def test_shards_hold_whole_lines_and_every_image_once_in_order():
    shards = list(cut_shards([line(number, 3) for number in range(10)], part=2, index=50))
    assert [len(shard.items) for shard in shards] == [9, 9, 9, 3] and IMAGES_PER_SHARD == 8
    assert [shard.name for shard in shards] == ["00002-00000", "00002-00001", "00002-00002", "00002-00003"]
    items = [item for shard in shards for item in shard.items]
    assert [item.index for item in items] == list(range(50, 80))
    assert [item.request.seed for item in items[:4]] == [0, 1, 2, 100]
    assert list(cut_shards([], 0, 0)) == []


def test_numbers_go_on_from_the_first_image_of_a_line():
    [shard] = cut_shards([JobLine("a", "demo", GenerationRequest("a cat", seed=8), 2, first=8)], 0, 0)
    assert [(item.number, item.request.seed) for item in shard.items] == [(8, 8), (9, 9)]
