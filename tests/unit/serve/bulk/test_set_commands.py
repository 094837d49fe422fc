"""Tests of `emoji-ldm sets` against a real server."""

import csv
import json

import pytest
from PIL import Image

from emoji_ldm.serve.bulk.api.job_requests import derived_seed
from emoji_ldm.serve.bulk.set_client import EmojiSetClient
from ray_jobs.cli.main import main
from tests.unit.serve.bulk.instant_backend import InstantBackend, png_of
from tests.unit.serve.bulk.live_service import serving


@pytest.fixture(scope="module")
def backend():
    return InstantBackend(0.002)


@pytest.fixture(scope="module")
def service(tmp_path_factory, backend):
    with serving(tmp_path_factory.mktemp("service"), backend) as found:
        yield found


@pytest.fixture(autouse=True)
def named_service(service, monkeypatch):
    monkeypatch.setenv("EMOJI_LDM_URL", service[0])
    monkeypatch.setenv("EMOJI_LDM_API_KEY", service[1])
    monkeypatch.setattr("emoji_ldm.serve.bulk.set_commands.POLL_S", 0.05)


@pytest.mark.slow
def test_one_command_draws_a_set_and_writes_the_folder(tmp_path, capsys, backend, monkeypatch):
    monkeypatch.setattr(backend, "pause_s", 0.5)  # long enough for the progress to be seen
    folder = tmp_path / "emoji"
    words = ["sets", "create", "a cat", "a dog", "-n", "3", "--style", "{prompt}, flat", "--seed", "4", "--steps", "9"]
    assert main([*words, "--fetch", str(folder)]) == 0
    said = capsys.readouterr().err
    assert "6 of 6" in said and "set: 6/6 images" in said and "images/s" in said
    rows = list(csv.DictReader((folder / "prompts.csv").open()))
    seed = derived_seed(4, "00000", 0)
    names = [f"0000_a-cat-flat_{seed}.png", f"0001_a-cat-flat_{seed + 1}.png"]
    assert [row["file"] for row in rows[:2]] == names and len(rows) == 6
    draws = {f"{task.request.prompt}{task.request.seed}": task.request for task in backend.tasks}
    assert all((folder / row["file"]).read_bytes() == png_of(draws[row["prompt"] + row["seed"]]) for row in rows)
    assert (folder / "sheet.png").is_file() and all(row["steps"] == "9" for row in rows)


@pytest.mark.slow
def test_a_fetch_that_was_cut_off_goes_on_where_it_was(tmp_path, capsys, monkeypatch):
    (tmp_path / "prompts.txt").write_text("".join(f"prompt {number}\n" for number in range(150)))
    assert main(["sets", "create", "--file", str(tmp_path / "prompts.txt"), "--wait", "--json"]) == 0
    job_id = json.loads(capsys.readouterr().out)["id"]
    real, asked = EmojiSetClient.download, []

    def download(self, job_id, name):
        asked.append(name)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(self, job_id, name)

    monkeypatch.setattr(EmojiSetClient, "download", download)
    folder = tmp_path / "out"
    assert main(["sets", "fetch", job_id, str(folder)]) == 130
    assert main(["sets", "fetch", job_id, str(folder)]) == 0
    assert len(asked) == len(set(asked)) + 1, "only the file that was cut off is asked for again"
    assert len(list(folder.glob("*.png"))) == 151 and len((folder / "prompts.csv").read_text().splitlines()) == 151
    assert main(["sets", "create", "another", "--fetch", str(folder)]) == 2, "pictures of two sets do not mix"
    assert f"holds images of {job_id}" in capsys.readouterr().err


def test_lines_of_jsonl_are_uploaded_with_what_they_share(tmp_path, capsys):
    lines = [{"custom_id": "a", "prompt": "a cat"}, {"custom_id": "b", "prompt": "refuse this"}]
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert main(["sets", "create", "--file", str(tmp_path / "lines.jsonl"), "--wait", "--name", "two"]) == 1
    said = capsys.readouterr().err
    assert "failed" in said and "b: the model cannot draw this" in said
    (tmp_path / "lines.jsonl").write_text(json.dumps(lines[0]) + '\n{"custom_id": "c", "prompt": "a", "steps": -1}')
    assert main(["sets", "create", "--file", str(tmp_path / "lines.jsonl")]) == 2
    assert "line 2: num_inference_steps=-1" in capsys.readouterr().err


@pytest.mark.slow
def test_sets_are_listed_cancelled_and_deleted(capsys):
    assert main(["sets", "create", *map(str, range(40)), "-n", "1000", "--key", "once"]) == 0
    job_id = capsys.readouterr().out.strip()
    assert main(["sets", "create", *map(str, range(40)), "-n", "1000", "--key", "once"]) == 0
    assert capsys.readouterr().out.strip() == job_id
    assert main(["sets", "cancel", job_id]) == 0
    assert main(["sets", "status", job_id, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "cancelled"
    assert main(["sets", "list"]) == 0 and f"{job_id}  " in capsys.readouterr().out
    assert main(["sets", "delete", job_id]) == 0
    assert main(["sets", "status", job_id]) == 1
    assert f"there is no job '{job_id}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "environment", "status", "text"),
    [
        (["create"], {}, 2, "no prompts"),
        (["create", "--file", "nowhere.txt"], {}, 2, "no file nowhere.txt"),
        (["create", "a", "--style", "flat"], {}, 2, "{prompt}"),
        (["create", "a", "--size", "7x7"], {}, 2, "multiples of 8"),
        (["status", "set_0"], {}, 1, "no job"),
        (["status", "../models"], {}, 2, "not the id of a set"),
        (["status", "set_0", "--url", "ftp://x"], {}, 2, "not the URL"),
        (["status", "set_0", "--url", "http://127.0.0.1:9"], {}, 1, "no service answers at http://127.0.0.1:9"),
        (["list"], {"EMOJI_LDM_API_KEY": "wrong"}, 2, "EMOJI_LDM_API_KEY"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(words, environment, status, text, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["sets", *words]) == status
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1 and error.startswith("error: ")


def test_the_kind_of_files_is_an_option_too(tmp_path):
    options = ["--output-format", "webp", "--background", "opaque", "--output-compression", "80", "--quality", "low"]
    assert main(["sets", "create", "a cat", *options, "--fetch", str(tmp_path)]) == 0
    [row] = csv.DictReader((tmp_path / "prompts.csv").open())
    image = Image.open(tmp_path / row["file"])
    assert (image.format, image.mode, row["steps"]) == ("WEBP", "RGB", "10")
