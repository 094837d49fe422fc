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
"""
