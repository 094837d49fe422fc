"""The local Ray that the other tests here share: what runs, and what its agent writes."""

from pathlib import Path

import psutil
import ray

ABSENT = ("dashboard/dashboard.py", "log_monitor.py", "_private/monitor.py")


def test_no_process_is_there_that_has_nothing_to_do():
    lines = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    raylet = [line for line in lines if "raylet/raylet" in line]
    assert raylet, "it runs"
    assert not [line for line in lines if line not in raylet and any(name in line for name in ABSENT)]


def test_its_agent_does_not_ask_for_a_dashboard_for_ever():
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    assert "dashboard http address failed" not in (logs / "dashboard_agent.log").read_text()
