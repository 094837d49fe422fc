"""`emoji-ldm cluster check`: the overlays have no findings, and mistakes are reported with file and line."""

import pytest

from emoji_ldm.kubernetes.lint import check
from ray_jobs.cli.main import main
from tests.manifests.render import K8S, OVERLAYS, PLACEHOLDER, copied, fill


def holes(overlay):
    """(file, line) of everything that its user has yet to fill in."""
    return {
        (f"k8s/{path.relative_to(K8S)}", number)
        for path in sorted((K8S / "overlays" / overlay).rglob("*.yaml"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if PLACEHOLDER in line.partition("#")[0]
    }


OPEN = [name for name in OVERLAYS if holes(name)]


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name not in OPEN])
def test_our_overlays_hold(overlay):
    assert [str(one) for one in check(K8S, overlay)] == []


@pytest.mark.parametrize("overlay", OPEN)
def test_exactly_the_values_that_a_site_has_to_fill_in_are_reported(overlay, tmp_path):
    found = check(K8S, overlay)
    assert {(one.file, one.line) for one in found} == holes(overlay)
    assert any(one.message.startswith("digest of emoji-ldm-gpu is missing: push the image") for one in found)
    folder = copied(tmp_path)
    fill(folder)
    assert [str(one) for one in check(folder, overlay)] == []


@pytest.fixture(scope="module")
def slips(tmp_path_factory):
    """What the check says about overlay kind with five slips in it."""
    folder = copied(tmp_path_factory.mktemp("slips"))
    for path, old, new in (
        ("base/pods.yaml", "secretRef: {name: emoji-ldm-store}", "secretRef: {name: emoji-ldm-stoer}"),
        ("components/small/emoji-ldm.yaml", "\ntrain:\n", "\ntrain:\n  num_worker: 1\n"),
        ("components/pools/gpu.yaml", "- {key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}", "[]"),
        ("base/refresh.yaml", "name: refresh\n", f"name: refresh{'-nightly' * 5}\n"),
        ("components/redis/kustomization.yaml", ', digest: "sha256:', ', no: "'),
    ):
        text = (folder / path).read_text()
        assert old in text, path
        (folder / path).write_text(text.replace(old, new))
    gpu = folder / "components/pools/gpu.yaml"
    gpu.write_text(gpu.read_text().replace("tolerations:\n      []", "tolerations: []"))
    redis = folder / "components/redis/kustomization.yaml"
    redis.write_text("".join(line.partition(', no: "')[0] + "}\n" if ', no: "' in line else line
                             for line in redis.read_text().splitlines(keepends=True)))  # fmt: skip
    return folder, check(folder, "kind")


def line_of(folder, path, text):
    """The number of the one line that holds a text."""
    (number,) = [number for number, line in enumerate((folder / path).read_text().splitlines(), 1) if text in line]
    return f"k8s/{path}", number


@pytest.mark.parametrize("path, line, text", [
    ("base/pods.yaml", "emoji-ldm-stoer", "declares no Secret 'emoji-ldm-stoer' for kind"),
    ("components/small/emoji-ldm.yaml", "num_worker:", "unknown key 'train.num_worker'; did you mean 'num_workers'?"),
    ("components/pools/gpu.yaml", "limits: {nvidia.com/gpu", "requests a GPU but does not tolerate"),
    ("base/refresh.yaml", "name: refresh-nightly", "the operator allows 36 for a RayCronJob"),
    ("components/redis/kustomization.yaml", "name: redis, newTag", "digest of redis is missing"),
])  # fmt: skip
def test_a_mistake_is_reported_with_its_file_and_line(slips, path, line, text):
    folder, found = slips
    told = [(one.file, one.line) for one in found if text in one.message]
    assert line_of(folder, path, line) in told, [str(one) for one in found if text in one.message] or [
        str(one) for one in found
    ]


def test_the_command_prints_each_finding_and_fails(slips, capsys):
    folder, found = slips
    assert main(["cluster", "check", "--overlay", "kind", "--manifests", str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:-1] == [str(one) for one in found]
    assert lines[-1].startswith(f"{len(found)} findings in ")


def test_the_command_reports_that_there_are_no_findings(capsys):
    assert main(["cluster", "check", "--overlay", "dev", "--manifests", str(K8S)]) == 0
    assert capsys.readouterr().out.startswith("0 findings in ")
