"""Which real pictures are held out, and what is asked of a model by their captions."""

import pytest

from emoji_ldm.dataset.split import is_held_out
from emoji_ldm.dataset.table import Table
from emoji_ldm.errors import DatasetError
from emoji_ldm.evaluate.real_pictures import RealPicture, TrainingSplit, held_out_prompts, read_real_pictures
from emoji_ldm.evaluate.reference import choose_names, reference_rows
from emoji_ldm.schemas import CAPTIONS, IMAGES
from emoji_ldm.store import Store
from tests.caption_rows import fill_captions
from tests.emoji_images import blobs, fill_images


def real(image_id, concept, style="", *, held_out=False, caption=""):
    return RealPicture(image_id, concept, style, caption, held_out)


def test_pictures_are_held_out_as_training_holds_them_out_and_only_if_every_training_did(tmp_path):
    store = Store(str(tmp_path / "store"))
    ids = fill_images(store, blobs(60))
    fill_captions(store, [(ids[0], "human", "blob style: smile, happy")])
    tables = Table(store, IMAGES), Table(store, CAPTIONS)
    one, both = ([TrainingSplit(0.3, seed) for seed in seeds] for seeds in ([0], [0, 1]))
    held = {picture.image_id for picture in read_real_pictures(*tables, one) if picture.held_out}
    assert held == {image_id for image_id in ids if is_held_out(image_id, 0.3, 0)}
    twice = {picture.image_id for picture in read_real_pictures(*tables, both) if picture.held_out}
    assert twice == {image_id for image_id in held if is_held_out(image_id, 0.3, 1)} and twice < held
    styled = {picture.image_id: picture for picture in read_real_pictures(*tables, one)}[ids[0]]
    assert (styled.style, styled.caption) == ("blob", "blob style: smile, happy")
    assert [one.image_id for one in read_real_pictures(*tables, one)] == [
        one.image_id for one in read_real_pictures(*tables, one)
    ]


def test_a_data_set_that_states_its_split_in_tags_is_believed_where_no_training_is_recorded():
    by_tags, by_hash = TrainingSplit(0.3, 0, by_tags=True), TrainingSplit(0.3, 0)
    assert by_tags.holds_out("a", ["noto", "split:pair"]) and not by_tags.holds_out("a", ["noto", "split:train"])
    for image_id in "abcdefgh":
        assert by_tags.holds_out(image_id, ["noto"]) == by_hash.holds_out(image_id, ["noto"])
        assert by_hash.holds_out(image_id, ["split:pair"]) == is_held_out(image_id, 0.3, 0)


def test_a_prompt_is_as_new_as_its_concept_and_style():
    pictures = [
        real("1", "moose", "flat"), real("2", "cat", "flat"), real("3", "cat", "blob"), real("4", "dog"),
        real("5", "moose", "blob", held_out=True, caption="blob style: moose"),
        real("6", "owl", "flat", held_out=True, caption="flat style: owl"),
        real("7", "cat", "flat", held_out=True, caption="flat style: red cat"),
        real("8", "dog", held_out=True, caption="a dog"),
        real("9", "bee", held_out=True),
    ]  # fmt: skip
    prompts = held_out_prompts(pictures, 10)
    assert [(one.truth, one.novelty) for one in prompts] == [
        ("5", "pair"), ("6", "concept"), ("7", "seen"), ("8", "seen"),
    ]  # fmt: skip
    assert (prompts[2].style, prompts[2].colors) == ("flat", ("red",))
    assert [one.truth for one in held_out_prompts(pictures, 2)] == ["5", "6"]


def test_without_a_held_out_caption_the_remedy_is_named():
    with pytest.raises(DatasetError, match=r"train\.validation_fraction.*emoji-ldm caption"):
        held_out_prompts([real("1", "cat", caption="a cat")], 3)


def test_too_small_a_reference_is_refused_with_the_remedy():
    pictures = [real(str(number), "cat", held_out=number < 5) for number in range(40)]
    with pytest.raises(DatasetError, match=r"only 5 images.*evaluate\.reference=all"):
        reference_rows(pictures, "held_out")
    assert len(reference_rows(pictures, "all")) == 40


def test_candidates_begin_with_what_prompts_name():
    pictures = [real("1", "cat"), real("2", "owl", held_out=True), real("3", "owl")]
    assert choose_names(pictures, ["dragon", "dragon"]) == ("dragon", "owl", "cat")


def test_a_store_without_images_names_the_command_that_fills_it(tmp_path):
    store = Store(str(tmp_path / "store"))
    with pytest.raises(DatasetError, match="emoji-ldm crawl"):
        read_real_pictures(Table(store, IMAGES), Table(store, CAPTIONS), [])
