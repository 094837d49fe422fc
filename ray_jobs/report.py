"""Write the report of a run; needs no cluster."""

from __future__ import annotations

from pathlib import Path

from emoji_ldm.evaluate.report import write_report

from emoji_ldm.config import Config


def run(config: Config) -> dict[str, object]:
    """Write runs/<run>/report.html from what the store holds."""
    return {"report": write_report(config, Path("runs", config.run, "report.html"))}
