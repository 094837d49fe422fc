"""The data card: a README.md whose YAML header tells Hugging Face's hub the configuration and the features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from emoji_ldm import __version__
from emoji_ldm.dataset.formats.export_options import ExportPlan

# The hub's search filters by these labels and knows no others: {exclusive limit: label}.
SIZE_CATEGORIES = {
    1_000: "n<1K",
    10_000: "1K<n<10K",
    100_000: "10K<n<100K",
    1_000_000: "100K<n<1M",
    10_000_000: "1M<n<10M",
}
BODY_TEMPLATE = """
# Emoji

{images:,} emoji as RGBA PNG, {captioned:,} of them with captions. Equal rows give equal files.

| part | rows | bytes |
| --- | --- | --- |
{parts}

`captions` holds all good captions, or those that people wrote; `caption` is the first. Both may be empty.
`image_id` is the SHA-256 of size and pixels. The pictures keep the licence of their source (`source_url`).

```python
from datasets import load_dataset

emoji = load_dataset("path/of/this/folder")
```

Made by emoji_ldm {code} (`emoji-ldm dataset export --format hf`) from store `{source}`, versions {versions}.
"""


def dataset_card(plan: ExportPlan, features: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
    """The text of README.md.

    Args:
        plan: What is exported.
        features: {column: feature} as `datasets` writes it in JSON.
        sizes: {part: bytes}.
    """
    images = sum(plan.parts.values())
    size = next((text for limit, text in SIZE_CATEGORIES.items() if images < limit), "n>10M")
    files = [{"split": part, "path": f"data/{part}-*"} for part in plan.parts]
    splits = [{"name": part, "num_bytes": sizes[part], "num_examples": rows} for part, rows in plan.parts.items()]
    # The hub takes configuration, features and sizes from this YAML block, so columns and splits are repeated here in
    # its notation.
    head = {
        **({"license": plan.options.license} if plan.options.license else {}),
        "pretty_name": "Emoji",
        "task_categories": ["text-to-image"],
        "size_categories": [size],
        "tags": ["emoji"],
        "configs": [{"config_name": "default", "data_files": files}],
        "dataset_info": {
            "features": [{"name": name, **_in_yaml(feature)} for name, feature in features.items()],
            "splits": splits, "download_size": sum(sizes.values()), "dataset_size": sum(sizes.values()),
        },
    }  # fmt: skip
    body = BODY_TEMPLATE.format(
        images=images, captioned=plan.captioned, code=__version__, source=plan.source,
        parts="\n".join(f"| {part} | {rows:,} | {sizes[part]:,} |" for part, rows in plan.parts.items()),
        versions=", ".join(f"{name}@{version}" for name, version in plan.versions.items()),
    )  # fmt: skip
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n{body}"


def _in_yaml(feature: Any) -> dict[str, Any]:
    # The YAML notation of a feature differs from the JSON one that lies in the Parquet metadata: lists and images have
    # a short form here.
    if isinstance(feature, list):
        return {"list": feature[0]["dtype"]}
    return {"dtype": "image" if feature["_type"] == "Image" else feature["dtype"]}
