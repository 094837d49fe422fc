"""`python -m tests.train.driver FILE`: a train job whose workers take a whole CPU each, so that a node holds one.

Two of them train slowly, so that somebody can interfere; one that is left does not.
"""

import sys
import time

from emoji_ldm.config import load
from emoji_ldm.train.plan import Place, Task
from emoji_ldm.train.world import current
from ray_jobs import group, train

STEP_S = 0.25


def paced(place: Place) -> Task:
    """The job's task."""
    task = train._load(place)
    draw, step_s = task.draw, STEP_S * (current().size > 1)
    task.draw = lambda *args: (time.sleep(step_s), draw(*args))[1]
    return task


if __name__ == "__main__":
    group.NUM_CPUS = 1
    print(group.train(load(sys.argv[1]), "train", paced))
