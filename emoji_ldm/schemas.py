"""Arrow schemas of all tables: the rows that one stage writes and another reads.

Every table has a key column whose values are distinct over the whole table; commits replace rows by it. Images are
`struct<bytes, path>`, the layout that Hugging Face's dataset viewer shows. A stored name changes only together with
`emoji_ldm.store.FORMAT`, which refuses stores of another layout.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

# Hugging Face's `Image` feature has this layout, so that exports and the tables share one type.
IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

CAPTION_ATTRIBUTES = ("head_shape", "eyes", "mouth", "expression", "skin_color", "action", "background")
"""The seven attributes of a caption sentence, in the order of the sentence (see caption/sentence_format.py)."""


@dataclass(frozen=True)
class TableSpec:
    """Name, schema and key column of a table."""

    name: str
    schema: pa.Schema
    key: str


# Arrow fields are nullable by default, and so are all of these, because rows of failures lack most values. Keys are
# never null, which `dataset verify` checks.
def _table_spec(name: str, key: str, *fields: tuple[str, pa.DataType]) -> TableSpec:
    return TableSpec(name, pa.schema([pa.field(field, kind) for field, kind in fields]), key)


# A tile is one emoji on a page. Its key holds the page and the position, so reading a page again replaces its tiles
# instead of adding them once more.
LISTINGS = _table_spec(
    "listings", "tile_id",
    ("tile_id", pa.string()),        # sha256 of page URL and position
    ("image_url", pa.string()),      # absolute, as the page gives it
    ("title", pa.string()),
    ("tag", pa.string()),
    ("page_url", pa.string()),
    ("position", pa.int32()),        # index on the page, from 0
)  # fmt: skip

# One row per URL that was requested, whatever came of it. A crawl that is run again skips the URLs that have a row, so
# failures have to be recorded like successes.
OUTCOMES = _table_spec(
    "outcomes", "url",
    ("url", pa.string()),
    ("kind", pa.string()),           # page | image
    ("outcome", pa.string()),        # see emoji_ldm.outcomes
    ("reason", pa.string()),
    ("image_id", pa.string()),       # of the image that was kept, or of the one that this URL duplicates
    ("http_status", pa.int32()),
    ("elapsed_s", pa.float32()),
    ("finished_at", pa.timestamp("us", tz="UTC")),
    ("etag", pa.string()),           # validators of the response, for conditional requests (RFC 9110, 8.8)
    ("last_modified", pa.string()),
)  # fmt: skip

# The key is a hash of the pixels and not of the file: the same picture from two sites, or in two formats, is one row.
IMAGES = _table_spec(
    "images", "image_id",
    ("image_id", pa.string()),       # sha256 of size and canonical RGBA pixels
    ("image", IMAGE_TYPE),           # canonical PNG
    ("title", pa.string()),
    ("tags", pa.list_(pa.string())),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("has_alpha", pa.bool_()),       # whether any pixel is not opaque
    ("num_frames", pa.int32()),      # of the source; the first is kept
    ("source_url", pa.string()),
    ("page_url", pa.string()),
    ("source_format", pa.string()),
    ("fetched_at", pa.timestamp("us", tz="UTC")),
    ("fingerprint", pa.binary()),    # perceptual hash, see emoji_ldm.images.fingerprint
)  # fmt: skip

# The key contains the engine's settings, so the captions of several engines lie side by side, and a change of a setting
# adds rows instead of overwriting those that a tag or an earlier training refers to.
CAPTIONS = _table_spec(
    "captions", "caption_id",
    ("caption_id", pa.string()),     # hash of image, engine settings and number
    ("image_id", pa.string()),
    ("caption", pa.string()),        # empty if status is not ok
    ("engine", pa.string()),
    ("engine_key", pa.string()),     # hash of the engine's settings
    ("number", pa.int32()),          # which of several captions of the image, from 0
    ("attempts", pa.int32()),        # answers requested from the engine
    ("status", pa.string()),         # ok | failed
    ("reason", pa.string()),
    *((name, pa.string()) for name in CAPTION_ATTRIBUTES),
)  # fmt: skip

# Tensors are stored as raw bytes with their shape, because Delta has no tensor type and nested lists would cost several
# times the space and time. Float16 is precise enough for latents of order one.
LATENTS = _table_spec(
    "latents", "latent_id",
    ("latent_id", pa.string()),      # hash of image and VAE
    ("image_id", pa.string()),
    ("vae_key", pa.string()),        # hash of VAE weights and preprocessing
    ("shape", pa.list_(pa.int32())),  # C, h, w
    ("mean", pa.binary()),           # float16, little endian, C order
    ("logvar", pa.binary()),
)  # fmt: skip

# Rows are keyed by the text, not by the image: many images share a caption, and its embedding is computed once.
TEXT_EMBEDDINGS = _table_spec(
    "text_embeddings", "text_id",
    ("text_id", pa.string()),        # hash of caption and text encoder
    ("caption", pa.string()),        # distinct per encoder; the empty caption is always present
    ("encoder_key", pa.string()),    # hash of encoder weights and tokenisation
    ("shape", pa.list_(pa.int32())),  # tokens without padding, width
    ("hidden_states", pa.binary()),  # float16, little endian, C order
)  # fmt: skip

# The key is a hash of everything that determines the pixels, so a job that is run again recognises the images that it
# has made already.
GENERATED = _table_spec(
    "generated", "generated_id",
    ("generated_id", pa.string()),   # hash of model, prompt, seed and settings
    ("image", IMAGE_TYPE),           # RGBA PNG
    ("prompt", pa.string()),
    ("negative_prompt", pa.string()),
    ("seed", pa.int64()),
    ("steps", pa.int32()),
    ("guidance_scale", pa.float32()),
    ("checkpoint", pa.string()),     # URI of the model
    ("model_key", pa.string()),      # hash of its weights
)  # fmt: skip

TABLES = {spec.name: spec for spec in (LISTINGS, OUTCOMES, IMAGES, CAPTIONS, LATENTS, TEXT_EMBEDDINGS, GENERATED)}

RENAMED_TABLES = ("tiles", "texts")
"""Table names of store format 1, by which such a store is recognised."""
