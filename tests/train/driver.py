"""`python -m tests.train.driver FILE`: a train job whose workers take a whole CPU each, so that a node holds one.

Two of them train slowly, so that somebody can interfere; one that is left does not.
"""

import sys
import time

from emoji_ldm.config import load
from emoji_ldm.train.engines.distributed import current_context
from emoji_ldm.train.training_args import RunContext, TrainingTask
from ray_jobs import train
from ray_jobs.execution import trainer

STEP_S = 0.25


def paced(run_context: RunContext) -> TrainingTask:
    """The job's task."""
    task = train._load(run_context)
    draw, step_s = task.prepare_batch, STEP_S * (current_context().world_size > 1)
    task.prepare_batch = lambda *args: (time.sleep(step_s), draw(*args))[1]
    return task


if __name__ == "__main__":
    trainer.NUM_CPUS = 1
    print(trainer.train(load(sys.argv[1]), "train", paced))
