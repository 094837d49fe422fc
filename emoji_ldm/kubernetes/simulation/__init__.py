"""A capacity and cost planner for the cluster: how long work takes and what it costs, on the SimPy event engine.

`scenario` describes pools, queues and work; `worker_groups` fills in what an overlay's manifests say; `simulation` runs
it, `invariants` checks it while it runs, and `report` shows the result. The same scenario and seed give the same run.

Not modelled: the network between Pods, preemption of quota, kube-scheduler's binding rate, fair sharing, topology
spread, and failures of heads and disks. Work is a fluid: the last shards of a job are as fast as the first.
"""
