"""Where working data and checkpoints live, which git ignores."""

import os
from pathlib import Path

DATA = Path(os.environ.get("STARTER_DATA", "data/starter"))
PACKAGES = DATA / "npm"
PAUSE = DATA / "PAUSE"  # while this file exists, training waits
