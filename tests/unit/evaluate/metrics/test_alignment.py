"""Probes on features whose names, styles and colours are known."""

import numpy as np
import pytest

from emoji_ldm.evaluate.metrics.alignment import ConceptProbe, LinearProbe, StyleProbe, colors_shown, unit_rows

RNG = np.random.default_rng(0)


def test_a_probe_learns_a_linear_rule_and_holds_on_unseen_rows():
    rule, offset = RNG.normal(size=(8, 3)).astype(np.float32), np.float32([1, 2, 3])
    rows = RNG.normal(5, 2, (400, 8)).astype(np.float32)
    probe = LinearProbe.fit(rows[:300], rows[:300] @ rule + offset)
    expected = rows[300:] @ rule + offset
    error = np.abs(probe(rows[300:]) - expected).mean() / np.abs(expected - expected.mean(0)).mean()
    assert error < 0.1  # the penalty shrinks a little


def test_the_rank_of_a_concept_counts_the_candidates_before_it():
    names = ("cat", "dog", "sun")
    embeddings = unit_rows(np.float32([[1, 0, 0], [0.9, 0.4, 0], [0, 0, 1]]))
    identity = LinearProbe(np.zeros(3, np.float32), np.ones(3, np.float32), np.eye(3, dtype=np.float32),
                           np.zeros(3, np.float32))  # fmt: skip
    probe = ConceptProbe(identity, names, embeddings)
    features = np.float32([[1, 0, 0]] * 3)
    assert probe.ranks(features, ["cat", "dog", "sun"]).tolist() == [0, 1, 2]


def test_styles_are_told_apart_and_unknown_ones_are_not_judged():
    features = np.concatenate([RNG.normal(shift, 1, (40, 5)) for shift in (0, 4)]).astype(np.float32)
    styles = ["flat"] * 40 + ["blob"] * 40
    probe = StyleProbe.fit(features, styles)
    assert probe is not None and probe.styles == ("blob", "flat")
    right = probe.are_right(features, styles)
    assert np.mean(right) > 0.95
    assert probe.are_right(features[:2], ["", "oil painting"]) == [None, None]


@pytest.mark.parametrize("styles", [[""] * 20, ["flat"] * 20, ["flat"] * 18 + ["blob"] * 2])
def test_fewer_than_two_styles_with_enough_pictures_make_no_probe(styles):
    assert StyleProbe.fit(np.zeros((20, 4), np.float32), styles) is None


def test_named_colours_are_counted_among_those_shown():
    assert colors_shown(["red", "blue"], ["red", "yellow"]) == 0.5
    assert colors_shown([], ["red"]) is None
