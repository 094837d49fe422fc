"""Write the report of a run. It needs no Ray."""

from __future__ import annotations

from pathlib import Path

from emoji_ldm.config import Config
from emoji_ldm.evaluate.report import write_report
from emoji_ldm.store import Store


def run(config: Config) -> dict[str, object]:
    """Write runs/<run>/report.html from what the store holds, here and in the store."""
    path = write_report(config, Path("runs", config.run, "report.html"))
    # Also into the store: the jobs of a cluster write to a disk that ends with their pod.
    Store(config.store).write(path.read_bytes(), "runs", config.run, "report.html")
    return {"report": path}
