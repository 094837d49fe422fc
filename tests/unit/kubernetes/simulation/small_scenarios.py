"""Small scenarios for the tests of the planner."""

import copy
import random

from emoji_ldm.kubernetes.simulation.scenario import parse
from emoji_ldm.kubernetes.simulation.simulation import ClusterSimulation

SMALL = {
    "rates": {"startup_jitter": 0, "backoff_limit": 4},
    "pools": {
        "cpu": {"instance": "c", "cpu": 16, "memory_gib": 64, "price_usd_h": 1.0, "limit": 40},
        "gpu": {"instance": "g", "cpu": 64, "memory_gib": 512, "gpus": 8, "price_usd_h": 16.0, "limit": 8},
    },
    "queues": {
        "batch": {
            "nominal": {
                "cpu": {"cpu": 400, "memory": 1600},
                "gpu": {"cpu": 1000, "memory": 4000, "nvidia.com/gpu": 64},
            }
        }
    },
    "work": [
        {
            "name": "caption",
            "queue": "batch",
            "total": 40_000,
            "rate": 5.0,
            "groups": [{"name": "w", "flavors": ["gpu"], "cpu": 8, "memory_gib": 32, "gpus": 1, "min_replicas": 8}],
        }
    ],
}


def small(**changes):
    """The values of a scenario with one job; `work` merges into that job."""
    values = copy.deepcopy(SMALL)
    values["work"][0].update(changes.pop("work", {}))
    values.update(changes)
    return values


def simulate(values):
    return ClusterSimulation(parse(values)).run()


def random_scenario(seed):
    """A random scenario: few nodes, tight quotas, spot losses, storms, gangs, elastic jobs, a service."""
    dice = random.Random(seed)
    gpus = dice.choice([8, 16, 32])
    values = {
        "seed": seed,
        "days": 0.3,
        "rates": {"pods_ready_s": dice.choice([200, 600]), "backoff_limit": dice.choice([None, 3])},
        "pools": {
            "cpu": {"instance": "c", "cpu": 16, "memory_gib": 64, "price_usd_h": 1.0, "limit": 20},
            "on-demand": {"instance": "g", "cpu": 64, "memory_gib": 512, "gpus": 8, "price_usd_h": 9.0, "limit": 3},
            "spot": {"instance": "s", "cpu": 64, "memory_gib": 512, "gpus": 8, "price_usd_h": 3.0,
                     "limit": dice.randint(1, 5), "spot": True, "loss_per_h": dice.choice([0, 0.2, 1.0])},
        },
        "queues": {
            name: {
                "nominal": {
                    "cpu": {"cpu": dice.choice([10, 60]), "memory": 400},
                    "on-demand": {"cpu": 999, "memory": 9999, "nvidia.com/gpu": dice.choice([0, 8])},
                    "spot": {"cpu": 999, "memory": 9999, "nvidia.com/gpu": dice.choice([gpus // 2, gpus])},
                },
                "borrowing": {"spot": {"nvidia.com/gpu": dice.choice([0, 8, 64])}} if dice.random() < 0.5 else {},
                "lending": {"spot": {"nvidia.com/gpu": 4}} if dice.random() < 0.3 else {},
                "strict": dice.random() < 0.3,
            }
            for name in ("train", "batch", "serve")
        },
        "storms": [{"at_h": dice.uniform(0.2, 2), "share": 0.3}],
        "work": [
            {
                "name": f"{kind}{number}",
                "queue": kind,
                "priority": {"train": 100_000, "batch": 10_000}[kind],
                "copies": dice.randint(1, 4),
                "total": dice.uniform(1_000, 100_000),
                "rate": 1.0,
                "elastic": kind == "batch",
                "checkpoint_s": dice.choice([60, 600]),
                "groups": [{"name": "w", "flavors": dice.choice([["spot"], ["on-demand", "spot"]]), "cpu": 7,
                            "memory_gib": 26, "gpus": 1, "min_replicas": dice.randint(1, 12), "max_replicas": 12}],
            }
            for number, kind in enumerate(dice.choices(["train", "batch"], k=4))
        ],
    }  # fmt: skip
    if dice.random() < 0.7:
        values["queues"]["serve"]["nominal"]["cpu"]["cpu"] = 60
        values["queues"]["serve"]["nominal"]["on-demand"]["nvidia.com/gpu"] = 8
        values["work"].append({
            "name": "serve", "queue": "serve", "priority": 1_000_000, "load_per_s": 2, "swing": 0.9, "rate": 1.0,
            "days": 0.3, "min_available": 2,
            "groups": [{"name": "s", "flavors": ["on-demand"], "cpu": 4, "memory_gib": 16, "gpus": 1, "min_replicas": 2,
                        "max_replicas": 6}],
        })  # fmt: skip
    return values


def on_spot(storms, rates=None, **work):
    """One job with eight workers, each on a spot node of its own."""
    values = small(storms=[{"at_h": at / 3600, "share": share} for at, share in storms], work=work)
    values["rates"] |= rates or {}
    values["pools"]["gpu"] |= {"spot": True, "cpu": 9, "startup_s": 20, "limit": 20}
    return values


def service_on_spot(storms, **work):
    """Four replicas, each on a spot node of its own, and as many nodes to spare."""
    values = on_spot(storms, {"images_gb": {"cpu": 0.1, "gpu": 0.1}}, total=None, load_per_s=4, rate=2.0, days=0.2,
                     **work)  # fmt: skip
    values["pools"]["gpu"] |= {"static": 8, "limit": 8}
    values["work"][0]["groups"][0]["min_replicas"] = 4
    return values
