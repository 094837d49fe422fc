"""`emoji-ldm cluster status`: the table, the JSON and the next command."""

import json

from emoji_ldm.kubernetes.diagnostics import NamespaceState
from emoji_ldm.kubernetes.status import format_table, next_command
from emoji_ldm.kubernetes.status_rows import build_rows
from tests.kubernetes.status_objects import CLUSTER, obj


def test_the_next_command_is_the_stage_after_the_last_completed_one():
    done = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
    latents = obj("RayJob", "latents-1", {"emoji-ldm/stage": "latents"}, status=done)
    assert next_command(list(build_rows(NamespaceState((latents,))))) == "emoji-ldm submit train --overlay NAME"
    assert "logs train-2 --follow" in next_command(
        list(build_rows(NamespaceState((latents, obj("RayJob", "train-2", status={})))))
    )
    whole = obj("RayJob", "pipeline-3", {"emoji-ldm/stage": "pipeline"}, status=done)
    assert "submit report" in next_command(list(build_rows(NamespaceState((whole,))))), "a pipeline has run all before"


def test_the_table_has_a_line_for_each():
    text = format_table(
        list(build_rows(NamespaceState((CLUSTER, obj("RayJob", "train", status={"jobStatus": "RUNNING"})))))
    )
    assert [line.split()[:3] for line in text.splitlines()] == [
        ["KIND", "NAME", "STATE"], ["cluster", "emoji-ldm", "waiting"], ["job", "train", "running"]]  # fmt: skip


def test_json_holds_rows_and_next_command(cluster, api):
    api.add({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "emoji-ldm"}})
    api.add({"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "emoji-ldm"}, "spec": {}})
    api.denied.add(("list", "events"))
    status, printed, _ = cluster("status", "--json")
    value = json.loads(printed)
    assert status == 0
    assert [(row["kind"], row["name"], row["state"]) for row in value["rows"]] == [("cluster", "emoji-ldm", "ready")]
    assert value["next"] == "emoji-ldm submit crawl --overlay NAME" and value["refused"] == ["events"]


def test_an_empty_cluster_names_the_command_that_fills_it(cluster):
    status, _, said = cluster("status")
    assert status == 1 and "there is no namespace emoji-ldm" in said and "emoji-ldm cluster up" in said
