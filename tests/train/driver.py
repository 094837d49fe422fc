"""`python -m tests.train.driver FILE`: a train job whose workers take a whole CPU each, so that a node holds one."""

import sys

from emoji_ldm.config import load
from ray_jobs import group, train

if __name__ == "__main__":
    group.NUM_CPUS = 1
    print(train.run(load(sys.argv[1])))
