"""Continuous batching of image requests.

Large language model servers schedule at the granularity of one iteration: Orca (Yu et al., OSDI 2022, "iteration-level
scheduling") and vLLM admit and retire sequences between two decoding iterations instead of waiting for the longest
sequence of a batch. A denoising step is to an image what a decoded token is to a sequence, so the same idea applies.
After each tick finished rows leave the batch and waiting ones take their slots. It is simpler than with text: the
number of steps is known in advance, and a row's state has a fixed size.

The path of a request, in the order of the modules:

1. `batcher` checks it and creates a `PendingImage`; `admission_control` refuses what would not be ready in time.
2. A fair queue in its `batch_bucket` holds it until its tenant's turn; a worker thread encodes it into a row.
3. `batch_scheduler` picks a bucket (rows that may share a forward pass) for every tick.
4. `worker_threads` run the stages; `batcher_state` is what they share; `batcher.stats` is what operators see.

All threads wait on one condition, `BatcherState.changed`, and look again whenever it is notified. Whoever changes what
another one waits for notifies it, in the same hold of the lock. `test_wakers` walks this table:

| who waits     | on what                               | who wakes it                                       |
|---------------|---------------------------------------|----------------------------------------------------|
| encode thread | an image waits, and there is room for | `admit`: a new image; `_step`, after it dropped or |
|               | a ready row (`has_work_to_prepare`)   | started ready rows; `_encode_one`: a free place    |
| step thread   | a runnable row (`can_step`), or the   | `_encode_one`: a ready row; `admit`: a deadline;   |
|               | next deadline                         | `_next_decode_batch`: a shorter backlog            |
| decode thread | latents in a decode queue             | `_queue_for_decode`                                |
| `close`       | no image is pending                   | `finish`, which every end goes through             |
| caller        | the future of its image               | `finish`, then `set_result` or `set_exception`     |
| all threads   | the end (`stopped`)                   | `stop`                                             |

An image leaves by its result, its caller (`cancel`), its deadline (`take_expired`, `take_unmeetable`), an error
(`fail`) or the end of the batcher (`stop`). All five go through `finish`, which notifies; an encoded row leaves its
bucket later, in the step thread's `drop_finished`, and the room that it gives is why `_step` notifies once more.
"""
