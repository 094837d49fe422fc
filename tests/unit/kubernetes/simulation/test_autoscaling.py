"""Ray's autoscaler: replicas follow the load, and jobs grow as far as their quota allows."""

from emoji_ldm.kubernetes.simulation.job_model import RunPhase
from tests.unit.kubernetes.simulation.small_scenarios import simulate, small


def test_replicas_follow_the_load_of_the_day():
    values = small(work={"total": None, "load_per_s": 10, "swing": 0.9, "rate": 1.0, "busy": 0.5, "days": 1.0})
    values["work"][0]["groups"][0] |= {"min_replicas": 2, "max_replicas": 60}
    simulation = simulate(values)
    used = {round(sample.time_s / 3600): sample.gpus_used for sample in simulation.ledger.samples}
    assert used[18] == 38 and used[6] < 5  # 10 x 1.9 / 0.5, and 10 x 0.1 / 0.5 with some hysteresis


def test_an_elastic_job_gets_the_workers_that_its_quota_allows_and_reports_what_it_lacks():
    values = small(work={"elastic": True}, days=0.01)
    values["work"][0]["groups"][0]["max_replicas"] = 100
    (run,) = simulate(values).every_run
    assert run.phase is RunPhase.RUNNING and run.desired["w"] == 8
    assert "scale-up by 92 w waits: insufficient quota for nvidia.com/gpu" in run.reason
