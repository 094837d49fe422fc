"""An overlay as the commands read it: its objects by kind, and the jobs that wait to be submitted."""

from pathlib import Path

import pytest

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.overlay import Overlay, is_submitted
from tests.kubernetes.conftest import SMALL, obj


def test_jobs_with_the_label_of_submit_are_templates_and_others_are_not():
    other = obj("RayJob", "own", "ray.io/v1", labels={"emoji-ldm/submit": "false"})
    overlay = Overlay("small", Path("k8s"), [*SMALL, other, {"kind": "RayJob", "metadata": {"name": "bare"}}])
    assert list(overlay.jobs) == ["crawl", "train"]
    assert overlay.jobs["train"]["spec"]["entrypoint"].startswith("emoji-ldm train ")
    assert [one["metadata"]["name"] for one in overlay.of_kinds("RayJob") if not is_submitted(one)] == ["own", "bare"]


def test_objects_of_several_kinds_come_in_the_order_of_the_overlay():
    overlay = Overlay("small", Path("k8s"), SMALL)
    kinds = [one["kind"] for one in overlay.of_kinds("RayService", "StatefulSet", "Secret")]
    assert kinds == ["StatefulSet", "RayService"]


def test_a_folder_without_manifests_is_reported_with_a_remedy(tmp_path):
    with pytest.raises(ConfigError, match=r"no manifests in .*: run from a clone of the project, or name it with"):
        Overlay.read(tmp_path, "kind")
