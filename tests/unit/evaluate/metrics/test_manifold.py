"""Precision, recall, density and coverage against brute force and at their limits."""

import numpy as np

from emoji_ldm.evaluate.metrics.manifold import manifold_scores


def draw(seed, size, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1, (size, 3)).astype(np.float32)


def test_scores_equal_loops_over_all_balls():
    real, made, k = draw(0, 30), draw(1, 20, 0.8), 3

    def radius(rows, row):
        return sorted(np.linalg.norm(rows - row, axis=1))[k]  # the nearest is the row itself

    in_real = np.array([[np.linalg.norm(one - ball) < radius(real, ball) for ball in real] for one in made])
    in_made = np.array([[np.linalg.norm(one - ball) < radius(made, ball) for ball in made] for one in real])
    scores = manifold_scores(real, made, num_neighbors=k)
    assert scores.precision == in_real.any(1).mean() and scores.recall == in_made.any(1).mean()
    assert np.isclose(scores.density, in_real.sum() / (k * 20)) and scores.coverage == in_real.any(0).mean()


def test_equal_sets_score_one_and_distant_sets_zero():
    real = draw(0, 60)
    near, far = manifold_scores(real, real), manifold_scores(real, real + 100)
    assert (near.precision, near.recall, near.coverage) == (1, 1, 1)
    assert (far.precision, far.recall, far.density, far.coverage) == (0, 0, 0, 0)


def test_a_set_of_few_different_pictures_keeps_its_precision_and_loses_recall_and_coverage():
    real = draw(0, 60)
    collapsed = np.repeat(real[:3], 20, axis=0) + draw(1, 60) * 1e-3
    scores = manifold_scores(real, collapsed)
    assert scores.precision == 1 and scores.recall < 0.1 and scores.coverage < 0.4
