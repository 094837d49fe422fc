"""A discrete-event simulation of the cluster: how long work takes and what it costs, with Kueue, KubeRay and Karpenter.

`scenario` says what is there and what is to be done, `manifests` takes shapes and quotas from an overlay, `world` runs
it, `laws` checks it all along, `results` sums it up. Deterministic: the same scenario and seed give the same run.

What it leaves out: the network between Pods, kube-scheduler's own preemption (Kueue's is there), fair sharing,
topology, failures of heads and disks. Work is a fluid: the last shards of a job are as quick as the first. More workers
of an elastic job are admitted all or none, as Kueue admits a workload slice.
"""
