"""A capacity and cost planner for the cluster: how long work takes and what it costs, on the SimPy event engine.

`scenario` describes node pools, queues and work, and `worker_groups` completes it from the manifests of an overlay.
`simulation` builds the parts and runs them as SimPy processes: `job_model` is the life of one RayJob or RayService,
`gang_admission` and `quota` are Kueue, `control_plane` is KubeRay, `nodes` is Karpenter with the kubelets,
`autoscaling` is Ray's autoscaler, `interruptions` are spot losses. `invariants` checks the state while it runs,
`accounting` adds up the cost, and `report` shows the result. The same scenario and seed give the same run. Not
modelled: the network between Pods, preemption of quota, the binding rate of kube-scheduler, fair sharing, topology
spread, and failures of heads and disks. Work is a fluid: a job has no slow last shards.
"""
