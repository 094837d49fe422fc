"""Bulk jobs: emoji sets of up to 50,000 prompts, and OpenAI's Batch interface over the same jobs.

    create   the API validates all lines and writes them as parts, then a header (job_store)
    run      a runner generates the images of all open jobs, and commits them shard by shard (job_runner, job_executor)
    read     progress, images and files come from the job's Delta table (job_state, job_archive, batch_files)

The modules here know neither HTTP nor keys nor quotas: they raise the `BulkJobError`s of `emoji_ldm.errors`. The routes
are in `api/`, the client of the command line in `set_client` and `set_download`.
"""
