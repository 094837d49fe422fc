"""Where `emoji-ldm submit` sends a command, and what it sends."""

import pytest

from ray_jobs.cli.main import main


@pytest.fixture
def sent(monkeypatch):
    """Everything that is submitted, instead of to a cluster; each submission ends with status 5."""
    calls = []

    def submit(words, address, *, working_dir, commands=None):
        calls.append((words, address, working_dir))
        return 5

    def submit_to_dashboard(kubectl, words, submit):
        return submit(words, f"the standing cluster of {kubectl.context or 'the current context'}", working_dir=None)

    monkeypatch.setattr("ray_jobs.cli.job_submission.submit", submit)
    monkeypatch.setattr("emoji_ldm.kubernetes.submit.submit_to_dashboard", submit_to_dashboard)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    return calls


@pytest.mark.parametrize(
    "words",
    [
        ["crawl", "--config", "my.yaml", "--retry", "failed", "crawl.num_browsers=4"],
        ["train", "autoencoder", "-c", "demo", "--dry-run"],
        ["dataset", "export", "csv", "./out", "--captioned"],
        ["crawl", "probe", "https://example.org/emoji/Blobs", "-o", "blobs.yaml"],
    ],
)
def test_a_command_goes_to_an_address_with_its_own_options_wherever_the_address_stands(words, sent):
    assert main(["submit", "--address", "http://h:8265", *words]) == 5
    assert main(["submit", *words, "--address", "http://h:8265"]) == 5
    assert sent == [(words, "http://h:8265", None)] * 2


def test_an_uploaded_folder_may_hold_commands_that_this_installation_lacks(sent, tmp_path):
    words = ["submit", "new-stage", "--new-option", "--address", "http://h:8265"]
    assert main(words) == 2 and not sent
    assert main([*words, "--working-dir", str(tmp_path)]) == 5
    assert sent == [(["new-stage", "--new-option"], "http://h:8265", str(tmp_path))]


@pytest.mark.parametrize(("stage", "words"), [("train", ["train"]), ("autoencoder", ["train", "autoencoder"])])
def test_the_standing_cluster_needs_no_overlay_and_reads_the_configuration_of_its_manifests(stage, words, sent):
    assert main(["submit", stage, "train.steps=3", "--standing", "--context", "there"]) == 5
    config = ["--config", "/etc/emoji-ldm/emoji-ldm.yaml"]
    assert sent == [([*words, *config, "train.steps=3"], "the standing cluster of there", None)]


def test_a_name_is_for_jobs_of_kubernetes_alone(sent, capsys):
    assert main(["submit", "train", "--address", "http://h:8265", "--name", "mine"]) == 2
    assert "--address takes neither --name nor --detach" in capsys.readouterr().err and not sent
