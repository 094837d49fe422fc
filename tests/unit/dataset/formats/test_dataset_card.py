"""The data card of an export."""

import yaml

from tests.unit.dataset.exports import SPLITS, run_export


def test_the_card_states_parts_sizes_licence_and_versions(tables, tmp_path):
    facts = run_export(tables, tmp_path / "out", format="hf", splits=SPLITS, license="cc-by-4.0")
    _, header, body = (tmp_path / "out/README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(header)
    assert (card["license"], card["size_categories"]) == ("cc-by-4.0", ["n<1K"])
    parts = {part["name"]: part for part in card["dataset_info"]["splits"]}
    assert {name: part["num_examples"] for name, part in parts.items()} == facts["parts"]
    for name, part in parts.items():
        files = list((tmp_path / "out/data").glob(f"{name}-*.parquet"))
        assert part["num_bytes"] == sum(file.stat().st_size for file in files) > 0
    assert "30 emoji as RGBA PNG, 2 of them with captions" in body
    assert "versions images@" in body and str(tmp_path) not in header + body, "no folder of this machine is published"
