"""A capacity and cost planner for the cluster: how long work takes, what it costs and what bounds it, on SimPy.

`scenario` describes node pools, queues and work, and `worker_groups` completes it from the manifests of an overlay.
`simulation` builds the parts, runs them as SimPy processes and checks the laws: `job_model` is the life of one RayJob
or RayService with its autoscaler, `quota` is Kueue, `nodes` is KubeRay's operator, Karpenter and spot losses. `report`
shows the result. The same scenario and seed give the same run. Work is a fluid: a job has no slow last shards.
"""
