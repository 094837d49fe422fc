"""Money: nodes times time, and every cent belongs to a job or to nobody."""

import pytest

from tests.unit.kubernetes.simulation.small_scenarios import simulate, small


def test_the_bill_is_nodes_times_time_and_charges_never_exceed_it():
    values = small()
    for pool in values["pools"].values():
        pool |= {"static": 2, "limit": 2}
    simulation = simulate(values)
    ledger = simulation.ledger
    assert ledger.billed_usd == pytest.approx(simulation.env.now / 3600 * (2 * 1.0 + 2 * 16.0))
    gpus = ledger.gpu_s["caption"] / 3600 * 16.0 / 8
    assert 0 < ledger.charged_usd["caption"] - gpus < 0.2  # its head
    assert ledger.charged_usd["caption"] <= ledger.billed_usd


def test_samples_stay_few_however_long_it_takes():
    ledger = simulate(small(work={"total": 4_000_000})).ledger
    assert 250 <= len(ledger.samples) <= 601 and ledger.interval_s > 15
    assert ledger.samples[-1].cost_usd == pytest.approx(ledger.billed_usd)
