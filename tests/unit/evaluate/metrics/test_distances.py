"""Kernel and Fréchet distances: closed forms, sums that add up, and no bias."""

import numpy as np
import pytest

from emoji_ldm.evaluate.metrics.distances import FeatureMoments, frechet_distance, kernel_distance


def draw(seed, size, *, shift=0.0, scale=1.0, width=6):
    return (np.random.default_rng(seed).normal(shift, scale, (size, width))).astype(np.float32)


def test_moments_of_parts_add_up_to_those_of_the_whole():
    whole = draw(0, 90)
    parts = [FeatureMoments.of(part) for part in np.array_split(whole, 4)]
    added, direct = sum(parts[1:], parts[0]), FeatureMoments.of(whole)
    assert added.count == 90
    np.testing.assert_allclose(added.mean, whole.astype(np.float64).mean(0), atol=1e-12)
    np.testing.assert_allclose(added.covariance, np.cov(whole.astype(np.float64), rowvar=False), atol=1e-12)
    np.testing.assert_allclose(added.covariance, direct.covariance, atol=1e-12)


def test_the_frechet_distance_of_shifted_and_scaled_gaussians_is_its_closed_form():
    one = draw(0, 4000)
    # The same samples moved and stretched have exactly known moments: |shift|^2 + sum (s - 2 s)^2 of the deviations.
    other = one * 2 + 3
    mean, covariance = FeatureMoments.of(one).mean, FeatureMoments.of(one).covariance
    expected = ((mean - (2 * mean + 3)) ** 2).sum() + np.trace(covariance)
    assert frechet_distance(FeatureMoments.of(one), FeatureMoments.of(other)) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(FeatureMoments.of(one), FeatureMoments.of(one)) == pytest.approx(0, abs=1e-8)


def test_the_frechet_distance_of_few_pictures_is_finite_although_their_covariance_is_singular():
    few, others = FeatureMoments.of(draw(0, 5, width=40)), FeatureMoments.of(draw(1, 5, width=40))
    assert 0 < frechet_distance(few, others) < 1000


def test_the_kernel_distance_equals_the_double_loop_of_its_definition():
    one, other = draw(0, 7), draw(1, 5, shift=0.5)

    def kernel(x, y):
        return (float(x.astype(np.float64) @ y.astype(np.float64)) / 6 + 1) ** 3

    within = [np.mean([kernel(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j])
              for rows in (one, other)]  # fmt: skip
    across = np.mean([kernel(a, b) for a in one for b in other])
    assert kernel_distance(one, other).value == pytest.approx(sum(within) - 2 * across, rel=1e-9)


@pytest.mark.slow
def test_the_kernel_distance_of_one_distribution_is_zero_on_average_for_few_pictures_too():
    values = [kernel_distance(draw(2 * seed, 12), draw(2 * seed + 1, 12)).value for seed in range(80)]
    assert np.mean(values) == pytest.approx(0, abs=3 * np.std(values) / np.sqrt(80))


def test_the_interval_holds_the_value_and_narrows_with_more_pictures():
    few, many = (kernel_distance(draw(0, size), draw(1, size, shift=1)) for size in (20, 500))
    assert few.low < few.value < few.high and many.low < many.value < many.high
    assert many.high - many.low < (few.high - few.low) / 2
    assert kernel_distance(draw(0, 20), draw(1, 20, shift=1)) == few  # the subsets are the same in every run
