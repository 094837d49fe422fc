"""Tests of job headers and ids."""

from emoji_ldm.serve.bulk.bulk_job import JOB_ID, BulkJob, new_job_id, owner_hash


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
