"""Evaluations are kept whole, and the newest of a run is found."""

import json

import pytest

from emoji_ldm.errors import StoreError
from emoji_ldm.evaluate import evaluation
from emoji_ldm.evaluate.evaluation import EvaluatedSystem, Evaluation, new_id, newest_evaluation
from emoji_ldm.evaluate.evaluation_page import PageRow, render_page
from emoji_ldm.evaluate.figures import FIGURES
from emoji_ldm.store import Store
from tests.generation_requests import gray_png


def made(run, *, kid=0.1):
    figures = {**dict.fromkeys(FIGURES), "kid": kid, "kid_low": kid - 0.01, "kid_high": kid + 0.01, "copy_rate": 0.0}
    identity, time = new_id(run)
    settings = {"steps": 25, "seeds": [0, 1]}
    systems = [
        EvaluatedSystem(name, f"/models/{name}", "key", settings, 8, {**figures, "kid": value})
        for name, value in (("<mine>", kid), ("other", kid / 2))
    ]
    data = {"num_reference": 50, "reference": "held_out", "size_px": 64}
    return Evaluation(
        identity, run, time, "0", "EfficientNet-Lite0", data, systems, {"kid": 0.001}, [], ["<mine>: bad"]
    )


def test_what_is_kept_is_read_back_equal_and_the_newest_of_the_run_wins(tmp_path, monkeypatch):
    store = Store(str(tmp_path))
    assert newest_evaluation(store, "demo") is None
    times = iter(["20260101T000000-000_demo", "20260102T000000-000_demo", "20260103T000000-000_my-demo",
                  "20260104T000000-000_demo.2"])  # fmt: skip
    monkeypatch.setattr(evaluation, "new_id", lambda run: (next(times), "now"))
    for run, kid in (("demo", 0.3), ("demo", 0.2), ("my-demo", 0.1), ("demo.2", 0.05)):
        one = Evaluation(**{**vars(made(run, kid=kid)), "id": evaluation.new_id(run)[0]})
        store.write(one.to_json().encode(), evaluation.FOLDER, f"{one.id}.json")
        store.write(b"page", evaluation.FOLDER, f"{one.id}.html")
    found = newest_evaluation(store, "demo")
    assert found is not None and found.systems[0].figures["kid"] == 0.2
    assert Evaluation.from_json(found.to_json()) == found


def test_a_newer_format_is_refused():
    values = json.loads(made("demo").to_json()) | {"format": 99}
    with pytest.raises(StoreError, match="format 99"):
        Evaluation.from_json(json.dumps(values))


def test_the_page_has_figures_pictures_settings_and_escapes_what_it_was_given():
    rows = [PageRow("pair", "a <b>cat</b>", gray_png(1), {"<mine>": [gray_png(2)] * 2, "other": [gray_png(3)]})]
    page = render_page(made("demo"), rows)
    assert "KID (EfficientNet-Lite0)" in page and "0.0900 to 0.1100" in page and "&lt;mine&gt;: bad" in page
    assert "a &lt;b&gt;cat&lt;/b&gt;" in page and "<b>cat</b>" not in page
    assert page.count("data:image/png") == 4 and "trained on in other styles only" in page and ">25<" in page
    # Figures that were measured of no model take no room; the better of two is marked.
    assert "CLIP" not in page and page.count("number best") == 1
