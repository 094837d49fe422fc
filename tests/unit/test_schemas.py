"""Tables and their schemas."""

import pyarrow as pa

from emoji_ldm.schemas import CAPTION_ATTRIBUTES, CAPTIONS, IMAGE_TYPE, RENAMED_TABLES, TABLES


def test_every_table_has_its_key_as_a_text_column():
    for name, spec in TABLES.items():
        assert spec.name == name and spec.schema.field(spec.key).type == pa.string()


def test_stored_names_are_frozen_for_format_2():
    assert list(TABLES) == ["listings", "outcomes", "images", "captions", "latents", "text_embeddings", "generated"]
    assert TABLES["text_embeddings"].schema.names == ["text_id", "caption", "encoder_key", "shape", "hidden_states"]
    assert TABLES["latents"].schema.names == ["latent_id", "image_id", "vae_key", "shape", "mean", "logvar"]
    assert not set(RENAMED_TABLES) & set(TABLES)


def test_images_are_what_hugging_face_shows_and_captions_have_all_attributes():
    assert [field.name for field in IMAGE_TYPE] == ["bytes", "path"]
    assert set(CAPTION_ATTRIBUTES) <= set(CAPTIONS.schema.names)
