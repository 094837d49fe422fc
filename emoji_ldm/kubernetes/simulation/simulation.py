"""Runs a scenario, and checks while it runs what must hold in every plan.

Each law is computed from first principles (Pods on nodes, the time of Pods) and not from the counters by which the
simulation decides, so that an error in one is not repeated in the other. A violation does not stop the run; it is
counted and reported with an example, and the figures of such a plan are not to be trusted.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import simpy

from emoji_ldm.kubernetes.simulation.job_model import RayClusterRun
from emoji_ldm.kubernetes.simulation.nodes import NodeFleet, SimPyProcess
from emoji_ldm.kubernetes.simulation.quota import QuotaAdmission, Usage, pod_usage
from emoji_ldm.kubernetes.simulation.scenario import Scenario, WorkloadSpec

SAMPLE_S = 60.0
LAWS = {
    "quota": "Pods never use more than the quotas of their queue and cohort",
    "nodes": "the Pods of a node fit into it",
    "limits": "a pool has no more nodes than its limit",
    "gangs": "a gang works only while it is complete",
    "reasons": "what waits has a reason",
    "pods": "every Pod ends once",
    "work": "work, repeated or not, takes the time of Pods, and a job ends with exactly its work",
    "money": "runs are never charged more than the nodes cost",
}


class ClusterSimulation:
    """One simulation of a scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.env = env = simpy.Environment(initial_time=0.0)
        self.fleet = NodeFleet(env, scenario.pools, scenario.rates, scenario.seed)
        self.admission = QuotaAdmission(env, scenario.queues, scenario.pools)
        self.runs = {name: self._runs_of(name, work) for name, work in scenario.work.items()}
        self.every_run = [run for runs in self.runs.values() for run in runs]
        self.storms: list[dict[str, float]] = []
        self.samples: list[dict[str, Any]] = []
        self.violations = dict.fromkeys(LAWS, 0)
        self.examples: dict[str, str] = {}

    def run(self) -> ClusterSimulation:
        """Simulate until all runs have ended or the days of the scenario are over; returns itself."""
        self.start()
        end = self.env.timeout(self.scenario.days * 86400)
        # Samples and the losses of spot nodes continue forever, so the queue of events never becomes empty by itself.
        self.env.run(self.env.all_of([run.ended for run in self.every_run]) | end)
        self._sample()
        self.check_at_end()
        return self

    def start(self) -> None:
        """Start the processes of all runs and storms, and the sampling."""
        for name, work in self.scenario.work.items():
            after = [run.ended for other in work.after for run in self.runs[other]]
            for run in self.runs[name]:
                self.env.process(run.life(after))
        for number, storm in enumerate(self.scenario.storms):
            self.env.process(self.fleet.storm(number, storm, self.storms))
        self.env.process(self._sample_regularly())

    def _runs_of(self, name: str, work: WorkloadSpec) -> list[RayClusterRun]:
        names = [name] if work.copies == 1 else [f"{name}-{number + 1}" for number in range(work.copies)]
        return [RayClusterRun(self.fleet, self.admission, copy, work) for copy in names]

    def _sample_regularly(self) -> SimPyProcess:
        while True:
            self._sample()
            yield self.env.timeout(SAMPLE_S)

    def _sample(self) -> None:
        """Record the state of the cluster, and check it."""
        fleet = self.fleet
        self.samples.append({
            "hours": self.env.now / 3600,
            "nodes": {name: len(pool.nodes) for name, pool in fleet.pools.items()},
            "gpus": sum(node.pool.spec.gpus - node.free[2] for node in fleet.nodes()),
            "pods": fleet.num_created - fleet.num_ended,
            "waiting": sum(run.stage == "pending" for run in self.every_run),
            "cost_usd": fleet.billed_usd(),
        })  # fmt: skip
        self.check()

    def check(self) -> None:
        """Check the laws that hold at every moment."""
        self._check_quotas()
        for name, pool in self.fleet.pools.items():
            self._require("limits", len(pool.nodes) <= pool.spec.limit, name)
        for node in self.fleet.changed:
            used = [sum(sizes) for sizes in zip(*(pod.group.size for pod in node.pods), strict=True)]
            fit = all(amount <= size for amount, size in zip(used, node.pool.spec.size, strict=bool(used)))
            self._require("nodes", fit, f"node {node.number}: {used} of {node.pool.spec.size}")
        self.fleet.changed.clear()
        for run in self.every_run:
            is_idle = not run.speed or run.is_complete
            self._require("gangs", is_idle or not run.spec.is_gang, f"{run.name} works without being complete")
            is_explained = run.stage != "pending" or any(request.reason for request in run.requests)
            self._require("reasons", is_explained, run.name)

    def check_at_end(self) -> None:
        """End what still runs, and check what can be known only when nothing happens any more."""
        fleet = self.fleet
        for run in self.every_run:
            if run.stage != "done":
                run.close()
            amounts = f"{run.name}: {run.done} done, {run.lost} lost, at most {run.pod_work}"
            self._require("work", run.done + run.lost <= run.pod_work * (1 + 1e-9), amounts)
            self._require("work", run.stage != "done" or run.spec.total in (None, run.done), amounts)
        counts = f"{fleet.num_created} created, {fleet.num_ended} ended"
        self._require("pods", fleet.num_created == fleet.num_ended and not any(n.pods for n in fleet.nodes()), counts)
        charged, billed = sum(fleet.charged_usd.values()), fleet.billed_usd()
        self._require("money", charged <= billed * (1 + 1e-9), f"{charged} of {billed}")

    def _check_quotas(self) -> None:
        """Compare the Pods of each queue and cohort with its limits."""
        # The sums are those of Pods, not of `QueueQuota.used`, by which admission decides.
        used, by_cohort, nominal = (defaultdict[str, Usage](Usage) for _ in range(3))
        for run in self.every_run:
            for name, group in run.groups.items():
                used[run.spec.queue].update(pod_usage(group, len(run.pods[name])))
        for name, queue in self.admission.queues.items():
            for key, maximum in queue.maximum.items():
                self._require("quota", used[name][key] <= maximum, f"{name}: {key} {used[name][key]} > {maximum}")
            # Reserved quota that is idle is nobody else's to use, so it counts as used. The sum of a cohort then never
            # exceeds its nominal quota, whoever borrowed from whom. The union of two Counters has the larger of each.
            cohort = queue.cohort or name
            by_cohort[cohort].update(used[name] | queue.reserved)
            nominal[cohort].update(queue.nominal)
        for cohort, total in by_cohort.items():
            for key, amount in total.items():
                limit = nominal[cohort][key]
                self._require("quota", amount <= limit, f"cohort {cohort}: {key} {amount} > {limit}")

    def _require(self, law: str, holds: bool, example: str) -> None:
        if not holds:
            self.violations[law] += 1
            self.examples.setdefault(law, f"{self.env.now:.0f} s: {example}")
