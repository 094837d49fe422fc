"""Runs a scenario: builds the components, starts their SimPy processes, and samples the state until the end."""

from __future__ import annotations

import simpy

from emoji_ldm.kubernetes.simulation.accounting import CostLedger
from emoji_ldm.kubernetes.simulation.autoscaling import autoscale
from emoji_ldm.kubernetes.simulation.control_plane import ControlPlane, KubeRayOperator
from emoji_ldm.kubernetes.simulation.gang_admission import GangAdmission
from emoji_ldm.kubernetes.simulation.interruptions import spot_lifetime, spot_storm
from emoji_ldm.kubernetes.simulation.invariants import InvariantChecker
from emoji_ldm.kubernetes.simulation.job_model import RayClusterRun, RunPhase
from emoji_ldm.kubernetes.simulation.nodes import NodeFleet, PodGroup
from emoji_ldm.kubernetes.simulation.quota import SimPyProcess, cohorts_of
from emoji_ldm.kubernetes.simulation.scenario import HEAD_POOL, Scenario, WorkloadSpec

# Heads have one size in every overlay, so the scenario does not repeat it.
# It is that of k8s/base/pods.yaml.
HEAD_SIZE = (2000, 8192, 0)  # millicores, MiB, GPUs


class ClusterSimulation:
    """One simulation of a scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.env = env = simpy.Environment(initial_time=0.0)
        rates = scenario.rates
        self.fleet = NodeFleet(env, scenario.pools, rates, scenario.seed)
        self.admission = GangAdmission(env, cohorts_of(scenario.queues), rates.admit_s)
        self.plane = ControlPlane(env, rates, self.fleet, self.admission, KubeRayOperator(env, rates))
        self.runs = {work.name: self._runs_of(work) for work in scenario.work}
        self.every_run = [run for runs in self.runs.values() for run in runs]
        self.ledger = CostLedger(self.fleet)
        # The components do not know the ledger or the checker: these listen to events, so that the simulation gives the
        # same run without them.
        self.plane.on_pod_ended.append(self.ledger.charge)
        self.fleet.on_ready.append(lambda node: env.process(spot_lifetime(self.fleet, node)))
        self.invariants = InvariantChecker(self.plane, self.every_run)
        for run in self.every_run:
            run.on_running = lambda run: env.process(autoscale(run))
        self.storms: list[dict[str, float]] = []

    def run(self) -> ClusterSimulation:
        """Simulate until all runs have ended or the days of the scenario are over; returns itself."""
        self.start()
        end = self.env.timeout(self.scenario.days * 86400)
        # Sampling and idle timeouts continue forever, so the queue of events never becomes empty by itself.
        self.env.run(self.env.all_of([run.ended for run in self.every_run]) | end)
        self._sample()
        for run in self.every_run:
            run.progress.settle()
        self.invariants.check_at_end()
        # This has to be last, because it charges Pods that are still running.
        self.ledger.close()
        return self

    def start(self) -> None:
        """Start the processes of all runs and storms, and the sampling."""
        for work in self.scenario.work:
            after = [run.ended for name in work.after for run in self.runs[name]]
            for run in self.runs[work.name]:
                self.env.process(run.lifecycle(after))
        for number, storm in enumerate(self.scenario.storms):
            self.env.process(spot_storm(self.fleet, number, storm.at_h * 3600, storm.share, self.storms))
        self.env.process(self._sample_regularly())

    def _runs_of(self, work: WorkloadSpec) -> list[RayClusterRun]:
        """One run for each copy of the work; all share their Pod groups."""
        groups = [PodGroup("head", HEAD_SIZE, "cpu", (HEAD_POOL,), 1, 1, 0.0)]
        for spec in work.groups:
            size = (round(spec.cpu * 1000), round(spec.memory_gib * 1024), spec.gpus)
            maximum = spec.min_replicas if spec.max_replicas is None else spec.max_replicas
            rate = work.rate if work.rate is not None else (work.rate_per_cpu or 0.0) * spec.cpu
            groups.append(PodGroup(spec.name, size, spec.image, tuple(spec.flavors), spec.min_replicas, maximum, rate))
        names = [work.name] if work.copies == 1 else [f"{work.name}-{number + 1}" for number in range(work.copies)]
        return [RayClusterRun(self.plane, name, work, groups) for name in names]

    def _sample_regularly(self) -> SimPyProcess:
        while True:
            self._sample()
            yield self.env.timeout(self.ledger.interval_s)

    def _sample(self) -> None:
        self.ledger.sample(sum(run.phase is RunPhase.PENDING for run in self.every_run))
        self.invariants.check(self.ledger.interval_s)
