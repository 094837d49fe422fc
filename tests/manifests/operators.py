"""For every rule of KubeRay and Kueue: edits of the good overlay that break it, and edits that do not ({}: none).

(object, broken, kept): paths with dots, `~` for a dot in a key, `Kind/name:path` for another object; see good.py.
"""

from tests.manifests.good import GONE

JOB, CLUSTER, SERVICE, CRON = "RayJob/train", "RayCluster/emoji-ldm", "RayService/serve", "RayCronJob/refresh"
STORE, QUEUE, FLAVOR = "StatefulSet/store", "ClusterQueue/train", "ResourceFlavor/gpu-spot"
HEAD, WORKERS = "spec.headGroupSpec", "spec.workerGroupSpecs.0"
HEAD_SPEC, RAY = f"{HEAD}.template.spec", f"{HEAD}.template.spec.containers.0"
JOB_HEAD = "spec.rayClusterSpec.headGroupSpec.template.spec"
JOB_WORKER = "spec.rayClusterSpec.workerGroupSpecs.0.template.spec"
POD, BOX = "spec.template.spec", "spec.template.spec.containers.0"
GCS = "spec.gcsFaultToleranceOptions"
REDIS = {
    "redisAddress": "redis:6379",
    "redisPassword": {"valueFrom": {"secretKeyRef": {"name": "redis", "key": "password"}}},
}
UPGRADE = "spec.upgradeStrategy.clusterUpgradeOptions"
GPU = "nvidia~com/gpu"
FIXED = {"spec.enableInTreeAutoscaling": GONE, "spec.autoscalerOptions": GONE}
STANDING = {"spec.clusterSelector": {"ray.io/cluster": "emoji-ldm"}, "metadata.labels": GONE}
QUOTA = "spec.resourceGroups.0.flavors.0.resources.1"


def setting(name, value="x"):
    return {"name": name, "value": value}


def deletion(*rules):
    return {"spec.deletionStrategy": {"deletionRules": [
        {"policy": policy, "condition": {"jobStatus": "SUCCEEDED", "ttlSeconds": ttl}} for policy, ttl in rules]},
        "spec.shutdownAfterJobFinishes": GONE, "spec.ttlSecondsAfterFinished": GONE}  # fmt: skip


CLUSTERS = {
    "names leave room for what the operator appends": (
        JOB, {"metadata.name": "a" * 48}, {"metadata.name": "a" * 47}),
    "names start with a letter": (CLUSTER, {"metadata.name": "1a"}, {"metadata.name": "a1"}),
    "every group has a container": (CLUSTER, {f"{WORKERS}.template.spec.containers": []}, {}),
    "the container of ray is the first": (
        CLUSTER, {f"{RAY}.name": "sidecar", f"{HEAD}.template.spec.containers.1": {"name": "ray-head"}},
        {f"{HEAD}.template.spec.containers.1": {"name": "sidecar"}}),
    "sizes are said once": (CLUSTER, {f"{HEAD}.resources": {"CPU": "1"}}, {f"{WORKERS}.resources": {"CPU": "1"}}),
    "labels are no start option": (CLUSTER, {f"{HEAD}.rayStartParams.labels": "a=b"}, {f"{HEAD}.labels": {"a": "b"}}),
    "labels of groups are labels": (CLUSTER, {f"{HEAD}.labels": {"a": "b c"}}, {f"{HEAD}.labels": {"a": "b-c"}}),
    "the least is not more than the most": (CLUSTER, {f"{WORKERS}.minReplicas": 3}, {f"{WORKERS}.minReplicas": 1}),
    "counts are not negative": (CLUSTER, {f"{WORKERS}.minReplicas": -1}, {f"{WORKERS}.minReplicas": 0}),
    "groups of a fixed cluster say both bounds": (
        CLUSTER, {**FIXED, f"{WORKERS}.maxReplicas": GONE}, {f"{WORKERS}.maxReplicas": GONE}),
    "the count lies between the bounds": (CLUSTER, {f"{WORKERS}.replicas": 5}, {f"{WORKERS}.replicas": 2}),
    "groups have different names": (
        CLUSTER, {"spec.workerGroupSpecs.1": {"groupName": "gpu-spot", "template": {"spec": {"containers": []}}}}, {}),
    "start options exist": (
        CLUSTER, {f"{HEAD}.rayStartParams.num-cpu": "0"}, {f"{HEAD}.rayStartParams.dashboard-host": "0.0.0.0"}),
    "a token needs a version": (CLUSTER, {"spec.rayVersion": GONE}, {}),
    "a token needs ray 2 52": (CLUSTER, {"spec.rayVersion": "2.51.1"}, {"spec.rayVersion": "2.52.0"}),
    "tokens of kubernetes are for bare clusters": (
        JOB, {"spec.rayClusterSpec.authOptions.enableK8sTokenAuth": True}, {}),
    "every cluster asks for a token": (CLUSTER, {"spec.authOptions.mode": "disabled"}, {}),
    "alpha features are not used": (CLUSTER, {"spec.networkPolicy": {"mode": "DenyAll"}}, {}),
    "the history collector is whole": (
        CLUSTER, {"spec.historyServerOptions": {"collectorOptions": {"image": "a"}}},
        {"spec.historyServerOptions": {"collectorOptions": {"image": "a", "env": [setting("STORAGE_BACKEND", "S3")]}}}),
    "the operator finds ports by name": (CLUSTER, {f"{RAY}.ports.0.name": "web"}, {f"{RAY}.ports": GONE}),
    "every group has start parameters": (
        CLUSTER, {f"{WORKERS}.rayStartParams": GONE}, {f"{WORKERS}.rayStartParams": {}}),
    "no tasks run on the head": (CLUSTER, {f"{HEAD}.rayStartParams.num-cpus": "2"}, {}),
    "there is one ray version": (CLUSTER, {"spec.rayVersion": "2.59.0"}, {}),
}  # fmt: skip

AUTOSCALERS = {
    "the switch of v2 needs an autoscaler": (
        CLUSTER, {**FIXED, f"{RAY}.env.2": setting("RAY_enable_autoscaler_v2", "1")},
        {f"{RAY}.env.2": setting("RAY_enable_autoscaler_v2", "1")}),
    "the version of the autoscaler is said once": (
        CLUSTER, {f"{RAY}.env.2": setting("RAY_enable_autoscaler_v2", "1")}, {}),
    "a head under v2 is never restarted": (
        CLUSTER, {f"{HEAD_SPEC}.restartPolicy": "Always"}, {f"{HEAD_SPEC}.restartPolicy": GONE}),
    "workers under v2 are never restarted": (
        CLUSTER, {f"{WORKERS}.template.spec.restartPolicy": "Always"},
        {f"{WORKERS}.template.spec.restartPolicy": "Never"}),
    "idle timeouts of groups need v2": (
        CLUSTER, {f"{WORKERS}.idleTimeoutSeconds": 9, "spec.autoscalerOptions.version": "v1"},
        {f"{WORKERS}.idleTimeoutSeconds": 9}),
    "priorities of groups need v2": (
        CLUSTER, {f"{WORKERS}.priority": 9, "spec.autoscalerOptions.version": "v1"}, {f"{WORKERS}.priority": 9}),
    "priorities of groups need ray 2 56": (
        CLUSTER, {f"{WORKERS}.priority": 9, "spec.rayVersion": "2.55.0"}, {f"{WORKERS}.priority": 9}),
    "groups are not suspended under an autoscaler": (
        CLUSTER, {f"{WORKERS}.suspend": True}, {**FIXED, f"{WORKERS}.suspend": True}),
    "the idle timeout is not negative": (
        CLUSTER, {"spec.autoscalerOptions.idleTimeoutSeconds": -1}, {"spec.autoscalerOptions.idleTimeoutSeconds": 0}),
    "the start command of the sidecar is the operators": (
        CLUSTER, {"spec.autoscalerOptions.env": [setting("KUBERAY_GEN_AUTOSCALER_START_CMD")]},
        {"spec.autoscalerOptions.env": [setting("ELSE")]}),
    "options of the autoscaler need one": (CLUSTER, {"spec.enableInTreeAutoscaling": False}, FIXED),
    "the autoscaler is v2": (CLUSTER, {"spec.autoscalerOptions.version": "v1"}, {}),
    "the autoscalers head may talk to the api server": (
        CLUSTER, {f"{HEAD_SPEC}.automountServiceAccountToken": False},
        {f"{HEAD_SPEC}.automountServiceAccountToken": True}),
}  # fmt: skip

FAULTS = {
    "fault tolerance is said once": (
        CLUSTER, {GCS: REDIS, "metadata.annotations": {"ray.io/ft-enabled": "true"}}, {GCS: REDIS}),
    "a redis address is an option": (
        CLUSTER, {f"{RAY}.env.2": setting("RAY_REDIS_ADDRESS")}, {GCS: REDIS}),
    "a redis password is an option": (CLUSTER, {GCS: REDIS, f"{RAY}.env.2": setting("REDIS_PASSWORD")}, {GCS: REDIS}),
    "a redis password is no start option": (CLUSTER, {f"{HEAD}.rayStartParams.redis-password": "x"}, {GCS: REDIS}),
    "a redis user is an option": (CLUSTER, {f"{RAY}.env.2": setting("REDIS_USERNAME")}, {GCS: REDIS}),
    "the namespace in redis is no annotation": (
        CLUSTER, {GCS: REDIS, "metadata.annotations": {"ray.io/external-storage-namespace": "a"}}, {GCS: REDIS}),
    "a service has no fixed namespace in redis": (
        SERVICE, {"spec.rayClusterConfig.gcsFaultToleranceOptions.externalStorageNamespace": "a"}, {}),
    "the backend is redis": (CLUSTER, {GCS: {**REDIS, "backend": "rocksdb"}}, {GCS: {**REDIS, "backend": "redis"}}),
    "the redis password comes from a secret": (
        CLUSTER, {GCS: {**REDIS, "redisPassword": {"value": "x"}}}, {GCS: REDIS}),
}  # fmt: skip

JOBS = {
    "a suspended job goes with its cluster": (
        JOB, {"spec.suspend": True, "spec.shutdownAfterJobFinishes": False}, {"spec.suspend": True}),
    "a ttl is not negative": (JOB, {"spec.ttlSecondsAfterFinished": -1}, {"spec.ttlSecondsAfterFinished": 0}),
    "a ttl needs a cluster that goes": (
        JOB, {"spec.shutdownAfterJobFinishes": False},
        {"spec.shutdownAfterJobFinishes": False, "spec.ttlSecondsAfterFinished": 0}),
    "a job has a cluster": (JOB, {"spec.rayClusterSpec": GONE}, {"spec.rayClusterSpec": GONE, **STANDING}),
    "a job on a standing cluster names it": (JOB, {"spec.clusterSelector": {"a": "b"}}, STANDING),
    "a job on a standing cluster is simple": (JOB, STANDING, {**STANDING, "spec.backoffLimit": 0}),
    "an interactive job is not retried": (
        JOB, {"spec.submissionMode": "InteractiveMode"},
        {"spec.submissionMode": "InteractiveMode", "spec.backoffLimit": 0}),
    "a sidecar takes no submitter": (
        JOB, {"spec.submissionMode": "SidecarMode"},
        {"spec.submissionMode": "SidecarMode", "spec.submitterPodTemplate": GONE}),
    "a sidecars head is never restarted": (
        JOB, {"spec.submissionMode": "SidecarMode", f"{JOB_HEAD}.restartPolicy": "Always"},
        {"spec.submissionMode": "SidecarMode"}),
    "the submission mode exists": (JOB, {"spec.submissionMode": "K8SJobMode"}, {"spec.submissionMode": "HTTPMode"}),
    "the submitter can be restricted": (JOB, {"spec.submitterPodTemplate": GONE}, {}),
    "deadlines are positive": (JOB, {"spec.activeDeadlineSeconds": 0}, {"spec.activeDeadlineSeconds": 1}),
    "a job ends some day": (JOB, {"spec.activeDeadlineSeconds": GONE}, {}),
    "retries are not negative": (JOB, {"spec.backoffLimit": -1}, {"spec.backoffLimit": 0}),
    "the runtime environment is a mapping": (
        JOB, {"spec.runtimeEnvYAML": "a: [b"}, {"spec.runtimeEnvYAML": "env_vars: {A: b}"}),
    "a deletion strategy says something": (
        JOB, {"spec.deletionStrategy": {}}, deletion(("DeleteCluster", 1))),
    "deletion rules replace the shutdown": (
        JOB, {**deletion(("DeleteCluster", 1)), "spec.shutdownAfterJobFinishes": True}, deletion(("DeleteCluster", 1))),
    "a deletion waits no negative time": (JOB, deletion(("DeleteCluster", -1)), deletion(("DeleteCluster", 0))),
    "a standing cluster is not deleted": (
        JOB, {**deletion(("DeleteCluster", 1)), **STANDING}, {**deletion(("DeleteSelf", 1)), **STANDING}),
    "workers are not deleted under an autoscaler": (
        JOB, {**deletion(("DeleteWorkers", 1)), "spec.rayClusterSpec.enableInTreeAutoscaling": True},
        deletion(("DeleteWorkers", 1))),
    "deletion rules differ": (
        JOB, deletion(("DeleteCluster", 1), ("DeleteCluster", 2)), deletion(("DeleteCluster", 1), ("DeleteSelf", 2))),
    "workers go before clusters before jobs": (
        JOB, deletion(("DeleteWorkers", 9), ("DeleteSelf", 2)), deletion(("DeleteWorkers", 1), ("DeleteSelf", 2))),
    "the schedule is one": (CRON, {"spec.schedule": "61 2 * * *"}, {"spec.schedule": "*/5 2-4 1,15 * MON-fri"}),
    "the time zone exists": (CRON, {"spec.timeZone": "Europe/Atlantis"}, {"spec.timeZone": "UTC"}),
}  # fmt: skip

SERVICES = {
    "a service is not given up for good": (
        SERVICE, {"metadata.annotations": {"ray.io/initializing-timeout": "30m"}}, {}),
    "the head service has no name of its own": (
        SERVICE, {"spec.rayClusterConfig.headGroupSpec.headService": {"metadata": {"name": "a"}}}, {}),
    "the kind of upgrade exists": (
        SERVICE, {"spec.upgradeStrategy.type": "Rolling"}, {"spec.upgradeStrategy.type": "NewCluster"}),
    "the old cluster waits no negative time": (
        SERVICE, {"spec.rayClusterDeletionDelaySeconds": -1}, {"spec.rayClusterDeletionDelaySeconds": 60}),
    "an incremental upgrade needs an autoscaler": (
        SERVICE, {"spec.rayClusterConfig.enableInTreeAutoscaling": False}, {}),
    "an incremental upgrade has a gateway": (
        SERVICE, {f"{UPGRADE}.gatewayClassName": ""}, {"spec.upgradeStrategy": {"type": "None"}}),
    "steps of an upgrade fit its surge": (
        SERVICE, {f"{UPGRADE}.stepSizePercent": 60}, {f"{UPGRADE}.stepSizePercent": 50}),
    "steps of an upgrade take time": (SERVICE, {f"{UPGRADE}.intervalSeconds": 0}, {f"{UPGRADE}.intervalSeconds": 1}),
}  # fmt: skip

QUEUES = {
    "a queued job gives its cluster back": (
        JOB, {"spec.shutdownAfterJobFinishes": False},
        {"spec.shutdownAfterJobFinishes": False, "metadata.labels": GONE}),
    "a queued job brings its cluster": (JOB, {"spec.clusterSelector": {"ray.io/cluster": "a"}}, STANDING),
    "a queued autoscaler is elastic": (
        JOB, {"spec.rayClusterSpec.enableInTreeAutoscaling": True},
        {"spec.rayClusterSpec.enableInTreeAutoscaling": True, "metadata.labels": {}}),
    "a queued cluster has few groups": (
        JOB, {"spec.rayClusterSpec.workerGroupSpecs": [
            {"groupName": f"g{number}", "template": {"spec": {"containers": []}}} for number in range(18)]}, {}),
    "no group is called head": (CLUSTER, {f"{WORKERS}.groupName": "head"}, {f"{WORKERS}.groupName": "heads"}),
    "queues of jobs exist": (JOB, {"metadata.labels.kueue~x-k8s~io/queue-name": "trains"}, {}),
    "priorities of queues exist": (JOB, {"metadata.labels.kueue~x-k8s~io/priority-class": "high"}, {}),
    "every job stands in a queue": (JOB, {"metadata.labels": {}}, {}),
    "a service stands in no queue": (SERVICE, {"metadata.labels": {"kueue.x-k8s.io/queue-name": "train"}}, {}),
    "jobs of a cron job find the default queue": (CRON, {"LocalQueue/default:metadata.name": "other"}, {}),
    "a local queue has a cluster queue": ("LocalQueue/train", {"spec.clusterQueue": "trains"}, {}),
    "flavors of queues exist": (QUEUE, {"spec.resourceGroups.0.flavors.0.name": "cpus"}, {}),
    "topologies of flavors exist": (FLAVOR, {"spec.topologyName": "zone"}, {"spec.topologyName": GONE}),
    "a pod asks for one topology": (
        JOB, {f"{JOB_WORKER[:-5]}.metadata.annotations": {
            "kueue.x-k8s.io/podset-required-topology": "a", "kueue.x-k8s.io/podset-preferred-topology": "a"}},
        {f"{JOB_WORKER[:-5]}.metadata.annotations": {"kueue.x-k8s.io/podset-required-topology": "a"}}),
    "some flavor takes every pod": (
        JOB, {f"{JOB_WORKER}.nodeSelector": {"emoji-ldm/pool": "browser"}}, {f"{JOB_WORKER}.nodeSelector": GONE}),
    "a gang fits its queue": (
        JOB, {"spec.rayClusterSpec.workerGroupSpecs.0.replicas": 5},
        {"spec.rayClusterSpec.workerGroupSpecs.0.replicas": 4}),
}  # fmt: skip

QUOTAS = {
    "covered resources have names": (QUEUE, {"spec.resourceGroups.0.coveredResources.0": "c p u"}, {}),
    "a resource is covered once": (QUEUE, {"spec.resourceGroups.0.coveredResources.1": "cpu"}, {}),
    "a flavor stands once": (QUEUE, {"spec.resourceGroups.0.flavors.1.name": "cpu"}, {}),
    "quotas follow the covered resources": (QUEUE, {f"{QUOTA}.name": "cpu"}, {}),
    "quotas are not negative": (QUEUE, {f"{QUOTA}.nominalQuota": "-1"}, {f"{QUOTA}.nominalQuota": "65Gi"}),
    "limits need a cohort": (QUEUE, {"spec.cohortName": GONE}, {}),
    "nobody lends more than he has": (QUEUE, {f"{QUOTA}.lendingLimit": "129Gi"}, {f"{QUOTA}.lendingLimit": "128Gi"}),
    "the fair share is not negative": (QUEUE, {"spec.fairSharing.weight": "-1"}, {"spec.fairSharing.weight": "0"}),
    "admission checks are on flavors of the queue": (
        QUEUE, {"spec.admissionChecksStrategy.admissionChecks.0.onFlavors.0": "gpu"}, {}),
    "a queue is not too wide": (
        QUEUE, {"spec.resourceGroups": [{"coveredResources": [f"r{n}" for n in range(257)], "flavors": []}]}, {}),
    "a queue is for this namespace": (
        "LocalQueue/train",
        {"ClusterQueue/train:spec.namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "emoji"}}},
        {"ClusterQueue/train:spec.namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "emoji-ldm"}}}),
    "a queue is for some namespace": (QUEUE, {"spec.namespaceSelector": GONE}, {}),
    "a cohort has more than one queue": (QUEUE, {"spec.cohortName": "emoji"}, {}),
    "taints of a flavor differ": (
        FLAVOR, {"spec.nodeTaints.1.key": "nvidia.com/gpu"},
        {"spec.nodeTaints.1": {"key": "nvidia.com/gpu", "effect": "NoExecute"}}),
    "taints and labels of a flavor are well formed": (FLAVOR, {"spec.nodeTaints.1.key": "a b"}, {}),
}  # fmt: skip

OPERATORS = {**CLUSTERS, **AUTOSCALERS, **FAULTS, **JOBS, **SERVICES, **QUEUES, **QUOTAS}  # of KubeRay and Kueue
