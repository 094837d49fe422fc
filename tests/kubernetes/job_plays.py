"""What KubeRay makes of a submitted job, step by step: each look at the jobs lets the newest one make a step."""


def play(api, *steps):
    """Each look at the jobs lets the newest one make a step."""
    left = list(steps)

    def look(api, kind):
        if kind == "RayJob" and left and (jobs := api.of("RayJob")):
            left.pop(0)(api, jobs[-1]["metadata"]["name"])

    api.looks.append(look)


def becomes(deployment, job="", **status):
    fields = {"jobDeploymentStatus": deployment, "jobStatus": job, **status}
    return lambda api, name: api.update("RayJob", name, status=fields)


def begins(attempt, *lines, phase="Running"):
    """A submitter Pod that prints these lines; None ends its log."""

    def step(api, name):
        api.logs[f"{name}-{attempt}"] = list(lines)
        meta = {"name": f"{name}-{attempt}", "labels": {"job-name": name}}
        spec = {"containers": [{"name": "ray-job-submitter"}]}
        api.add({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec, "status": {"phase": phase}})
        # Attempts are minutes apart on a cluster; here they may fall into one second, the resolution of these times.
        key = next(key for key in api.objects if key[1] == "Pod" and key[-1] == f"{name}-{attempt}")
        api.objects[key]["metadata"]["creationTimestamp"] = f"2026-01-01T00:0{'ab'.index(attempt)}:00Z"
        api.update("RayJob", name, status={"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"})

    return step
