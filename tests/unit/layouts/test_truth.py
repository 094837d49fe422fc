"""How found tiles are judged against the truth of a corpus site."""

import base64

from tests.layouts import TruthTile, compare
from tests.layouts.pictures import pool, sized

CAT = TruthTile("https://a.test/cat@2x.png", "Happy cat", smaller=frozenset({"https://a.test/cat.png"}))
DOG = TruthTile("https://a.test/dog.png", "Sad dog", accept=frozenset({"https://b.test/dog.png"}))


def test_all_right_is_one_everywhere_and_titles_ignore_case_and_spaces():
    result = compare([(CAT.url, " HAPPY\n cat"), (DOG.url, "Sad dog")], [CAT, DOG])
    assert (result.precision, result.recall, result.title_accuracy) == (1, 1, 1)


def test_an_advert_costs_precision_a_miss_costs_recall_and_a_wrong_title_is_shown():
    result = compare([(CAT.url, "0123 happy cat"), ("https://a.test/sale.png", "Sale")], [CAT, DOG])
    assert (result.precision, result.recall, result.title_accuracy) == (0.5, 0.5, 0)
    assert result.missing == [DOG]
    assert result.wrong_titles == [("0123 happy cat", "Happy cat")]


def test_finding_a_tile_twice_is_no_mistake_but_a_second_address_for_it_is_one():
    assert compare([(CAT.url, "Happy cat")] * 2, [CAT]).precision == 1
    both = compare([(DOG.url, "Sad dog"), ("https://b.test/dog.png", "Sad dog")], [DOG])
    assert (both.num_right, both.num_found) == (1, 2)


def test_an_address_that_is_as_good_counts_and_one_of_a_smaller_size_is_wrong_but_told_apart():
    assert compare([("https://b.test/dog.png", "Sad dog")], [DOG]).recall == 1
    result = compare([("https://a.test/cat.png", "Happy cat")], [CAT])
    assert (result.precision, result.num_smaller) == (0, 1)


def test_an_address_may_be_escaped_or_not():
    assert compare([("https://a.test/cat%402x.png", "Happy cat")], [CAT]).recall == 1


def test_a_drawing_without_an_address_is_right_if_it_shows_the_same_picture():
    heart, other = (next(emoji for emoji in pool() if emoji.title == title) for title in ("Red heart", "Panda"))
    truth = [TruthTile("https://a.test/s.svg#e1", "Red heart", picture=heart.data)]
    for emoji, right in ((heart, 1), (other, 0)):
        url = f"data:image/png;base64,{base64.b64encode(sized(emoji, 96)).decode()}"
        assert compare([(url, "Red heart")], truth).num_right == right


def test_finding_nothing_has_no_recall_and_is_no_error():
    result = compare([], [CAT])
    assert (result.precision, result.recall, result.title_accuracy) == (1, 0, 0)
