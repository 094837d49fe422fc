"""The times of ticks: measuring and predicting them."""

import pytest
import torch

from emoji_ldm.generate.latency_model import LatencyProfile, StepTimer, TimedStep, efficient_batch_size


def test_ticks_on_a_gpu_are_timed_by_its_events_when_they_have_ended(monkeypatch):
    synchronized, clock = [], iter(range(100))

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = next(clock)

        def synchronize(self):
            synchronized.append(self.at)

        def elapsed_time(self, last):
            return 1000.0 * (last.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    timer = StepTimer(on_gpu=True)
    for num_rows in (1, 2, 3, 4):
        with timer.step((4, 8, 8), num_rows, 2 * num_rows):
            next(clock)
    assert synchronized == [2, 5]  # the tick before last
    assert timer.take() == [TimedStep((4, 8, 8), rows, 2 * rows, 2.0) for rows in (1, 2)] and timer.take() == []


def test_ticks_on_a_cpu_are_known_at_once_and_can_be_dropped():
    timer = StepTimer(on_gpu=False)
    with timer.step((4, 8, 8), 3, 6):
        pass
    (step,) = timer.take()
    assert (step.shape, step.num_rows, step.cost) == ((4, 8, 8), 3, 6) and step.seconds > 0
    with timer.step((4, 8, 8), 3, 6):
        pass
    timer.reset()
    assert timer.take() == []


@pytest.mark.parametrize(("rows", "seconds"), [(1, 2.0), (2, 2.0), (3, 2.5), (4, 3.0), (8, 6.0)])
def test_the_profile_interpolates_between_measured_sizes_and_is_proportional_beyond(rows, seconds):
    assert LatencyProfile({2: 2.0, 4: 3.0}).predict_s(rows) == seconds


def test_the_profile_follows_new_measurements_and_a_copy_does_not():
    profile = LatencyProfile({2: 2.0, 4: 3.0})
    copy, larger = profile.copy(), profile.scaled(2)
    for _ in range(100):
        profile.update(4, 6.0)
    assert profile.predict_s(4) == pytest.approx(6.0, rel=0.01)
    assert copy.predict_s(4) == 3.0 and larger.predict_s(4) == 6.0


def test_an_outlier_changes_the_profile_little():
    profile = LatencyProfile({4: 1.0})
    profile.update(4, 1000.0)
    assert profile.predict_s(4) == pytest.approx(1.2)  # 1 + 0.1 * (3 - 1)


def test_the_efficient_batch_is_the_smallest_one_that_costs_about_as_little_per_image():
    rounds = [{1: 1.0, 2: 1.2, 4: 2.0, 8: 3.9}, {1: 5.0, 2: 6.0, 4: 10.4, 8: 20.0}, {1: 1, 2: 1, 4: 9, 8: 4}]
    assert efficient_batch_size(rounds) == 4
    assert efficient_batch_size([{1: 1.0, 2: 2.0, 4: 4.0}]) == 1
