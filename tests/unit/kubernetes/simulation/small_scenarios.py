"""Small scenarios for the tests of the planner."""

import copy
import random

from emoji_ldm.kubernetes.simulation.scenario import parse
from emoji_ldm.kubernetes.simulation.simulation import ClusterSimulation

GPU = "nvidia.com/gpu"
SMALL = {
    "pools": {
        "cpu": {"instance": "c", "cpu": 16, "memory_gib": 64, "price_usd_h": 1.0, "limit": 40},
        "gpu": {"instance": "g", "cpu": 64, "memory_gib": 512, "gpus": 8, "price_usd_h": 16.0, "limit": 8},
    },
    "queues": {
        "batch": {"nominal": {"cpu": {"cpu": 400, "memory": 1600}, "gpu": {"cpu": 1000, "memory": 4000, GPU: 64}}}
    },
    "work": {
        "caption": {
            "queue": "batch",
            "total": 40_000,
            "rate": 5.0,
            "groups": {"w": {"pool": "gpu", "cpu": 8, "memory_gib": 32, "gpus": 1, "min_replicas": 8}},
        }
    },
}


def small(**changes):
    """The values of a scenario with one job; `work` merges into that job, `group` into its worker group."""
    values = copy.deepcopy(SMALL)
    values["work"]["caption"]["groups"]["w"].update(changes.pop("group", {}))
    values["work"]["caption"].update(changes.pop("work", {}))
    values.update(changes)
    return values


def simulate(values):
    simulation = ClusterSimulation(parse(values)).run()
    assert not any(simulation.violations.values()), simulation.examples
    return simulation


def on_spot(*storms, **work):
    """One job with eight workers, each on a spot node of its own; storms are a second and a share."""
    values = small(storms=[{"at_h": at_s / 3600, "share": share} for at_s, share in storms], work=work)
    values["pools"]["gpu"] |= {"loss_per_h": 0, "cpu": 9, "limit": 20}
    return values


def random_scenario(seed):
    """A random scenario: few nodes, tight quotas, spot losses, storms, gangs, elastic jobs, a service."""
    dice = random.Random(seed)
    gpus = dice.choice([8, 16, 32])
    node = {"cpu": 64, "memory_gib": 512, "gpus": 8}
    values = {
        "seed": seed,
        "days": 0.3,
        "pools": {
            "cpu": {"instance": "c", "cpu": 16, "memory_gib": 64, "price_usd_h": 1.0, "limit": 20},
            "on-demand": {"instance": "g", **node, "price_usd_h": 9.0, "limit": 3},
            "spot": {"instance": "s", **node, "price_usd_h": 3.0, "limit": dice.randint(1, 5),
                     "loss_per_h": dice.choice([0, 0.2, 1.0])},
        },
        "queues": {
            name: {
                "nominal": {
                    "cpu": {"cpu": dice.choice([10, 60]), "memory": 400},
                    "on-demand": {"cpu": 999, "memory": 9999, GPU: dice.choice([0, 8])},
                    "spot": {"cpu": 999, "memory": 9999, GPU: dice.choice([gpus // 2, gpus])},
                },
                "borrowing": {"spot": {GPU: dice.choice([0, 8, 64])}} if dice.random() < 0.5 else {},
                "lending": {"spot": {GPU: 4}} if dice.random() < 0.3 else {},
                "strict": dice.random() < 0.3,
            }
            for name in ("train", "batch", "serve")
        },
        "storms": [{"at_h": dice.uniform(0.2, 2), "share": 0.3}],
        "work": {
            f"{kind}{number}": {
                "queue": kind,
                "priority": {"train": 100_000, "batch": 10_000}[kind],
                "copies": dice.randint(1, 4),
                "total": dice.uniform(1_000, 100_000),
                "rate": 1.0,
                **({"elastic": True, "shard_s": dice.choice([60, 600])} if kind == "batch" else {}),
                "groups": {"w": {"pool": dice.choice(["spot", "on-demand"]), "cpu": 7, "memory_gib": 26, "gpus": 1,
                                 "min_replicas": dice.randint(1, 12), "max_replicas": 12}},
            }
            for number, kind in enumerate(dice.choices(["train", "batch"], k=4))
        },
    }  # fmt: skip
    if dice.random() < 0.7:
        values["queues"]["serve"]["nominal"]["cpu"]["cpu"] = 60
        values["queues"]["serve"]["nominal"]["on-demand"][GPU] = 8
        values["work"]["serve"] = {
            "queue": "serve", "priority": 1_000_000, "load_per_s": 2, "swing": 0.9, "rate": 1.0, "days": 0.3,
            "groups": {"s": {"pool": "on-demand", "cpu": 4, "memory_gib": 16, "gpus": 1, "min_replicas": 2,
                             "max_replicas": 6}},
        }  # fmt: skip
    return values
