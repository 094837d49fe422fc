"""`emoji-ldm pipeline`: stages in the order of the flow, stopped by the first that fails, nothing done twice."""

import pytest

from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import ConfigError
from emoji_ldm.schemas import CAPTIONS
from emoji_ldm.store import Store
from ray_jobs.cli.main import main
from ray_jobs.pipeline import STAGE_ORDER, stages_of
from tests.emoji_images import blobs, fill_images


@pytest.mark.slow
def test_without_names_all_stages_run_and_named_ones_run_in_the_order_of_the_flow():
    assert stages_of([]) == STAGE_ORDER
    assert stages_of(["latents", "crawl"]) == ("crawl", "latents")


@pytest.mark.slow
@pytest.mark.parametrize(("words", "text"), [(["crowl"], "no stage 'crowl'"), (["crawl", "crawl"], "name it once")])
def test_a_stage_that_does_not_exist_or_is_named_twice_is_one_line(words, text):
    with pytest.raises(ConfigError, match=text):
        stages_of(words)


@pytest.mark.slow
def test_the_first_failing_stage_stops_it_with_one_line_and_its_own_exit_code(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["pipeline", "caption", "latents", "train", f"store={tmp_path}/store"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: stopped at caption: ")
    assert error.endswith("; not run: latents train; the same command goes on from there")


@pytest.mark.slow
def test_a_second_run_repeats_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    store = Store(f"{tmp_path}/store")
    fill_images(store, blobs(12))
    words = ["pipeline", "report", "caption", f"store={store.uri}", "caption.num_workers=1"]
    versions = []
    for _ in range(2):
        assert main(words) == 0
        captions = Table(store, CAPTIONS)
        versions.append((captions.version, captions.count()))
    assert versions[0] == versions[1]
    assert versions[0][1] == 12
    assert "=== 2/2 report ===" in capsys.readouterr().err
