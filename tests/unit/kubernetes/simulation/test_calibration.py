"""Published scale figures: those that set a rate are met, and predictions are not far."""

import pytest

from emoji_ldm.kubernetes.simulation.calibration import admissions, figures, ray_clusters, ten_thousand_pods
from emoji_ldm.kubernetes.simulation.scenario import ControlPlaneRates


def test_figures_that_set_a_rate_are_met_and_predictions_are_not_far():
    rates = ControlPlaneRates()
    assert ten_thousand_pods(rates) == pytest.approx(200, rel=0.01)
    assert ray_clusters(1_000, rates) == pytest.approx(268.9, rel=0.01)
    assert ray_clusters(5_000, rates) == pytest.approx(1266.9, rel=0.05)
    assert admissions(15_000, rates) == pytest.approx(351.1, rel=0.01)


@pytest.mark.slow
def test_no_prediction_is_off_by_half():
    found = figures()
    assert all(abs(figure.error) < (0.01 if figure.sets else 0.5) for figure in found)
    assert sum(not figure.sets for figure in found) == 4
