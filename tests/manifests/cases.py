"""For every rule: edits of the good overlay that break it, and edits nearby that do not ({}: the good overlay).

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
    "the schedule is one": (CRON, {"spec.schedule": "61 2 * * *"}, {"spec.schedule": "*/5 2-4 1,15 * *"}),
    "the time zone exists": (CRON, {"spec.timeZone": "Europe/Atlantis"}, {"spec.timeZone": "UTC"}),
}  # fmt: skip

SERVICES = {
    "the time to become ready is a duration": (
        SERVICE, {"metadata.annotations.ray~io/initializing-timeout": "soon"},
        {"metadata.annotations.ray~io/initializing-timeout": "1h30m"}),
    "a roll out is given up some day": (SERVICE, {"metadata.annotations.ray~io/initializing-timeout": GONE}, {}),
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
        SERVICE, {"metadata.annotations.kueue~x-k8s~io/elastic-job": "false"}, {"metadata.labels": {}}),
    "a queued cluster has few groups": (
        JOB, {"spec.rayClusterSpec.workerGroupSpecs": [
            {"groupName": f"g{number}", "template": {"spec": {"containers": []}}} for number in range(18)]}, {}),
    "no group is called head": (CLUSTER, {f"{WORKERS}.groupName": "head"}, {f"{WORKERS}.groupName": "heads"}),
    "queues of jobs exist": (JOB, {"metadata.labels.kueue~x-k8s~io/queue-name": "trains"}, {}),
    "priorities of queues exist": (JOB, {"metadata.labels.kueue~x-k8s~io/priority-class": "high"}, {}),
    "every job stands in a queue": (JOB, {"metadata.labels": {}}, {}),
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
    "a queue is for some namespace": (QUEUE, {"spec.namespaceSelector": GONE}, {}),
    "a cohort has more than one queue": (QUEUE, {"spec.cohortName": "emoji"}, {}),
    "taints of a flavor differ": (
        FLAVOR, {"spec.nodeTaints.1.key": "nvidia.com/gpu"},
        {"spec.nodeTaints.1": {"key": "nvidia.com/gpu", "effect": "NoExecute"}}),
    "taints and labels of a flavor are well formed": (FLAVOR, {"spec.nodeTaints.1.key": "a b"}, {}),
}  # fmt: skip

CONFIGS = {
    "configs are valid": (
        "ConfigMap/emoji-ldm", {"data.emoji-ldm~yaml": "train: {num_worker: 1}"}, {"data.emoji-ldm~yaml": "run: a"}),
    "entrypoints are commands": (JOB, {"spec.entrypoint": "emoji-ldm trane"}, {"spec.entrypoint": "emoji-ldm crawl"}),
    "configs lie where commands look": (
        JOB, {"spec.entrypoint": "emoji-ldm train --config /etc/emoji-ldm/emoji.yaml"}, {}),
    "the serve config is ours": (
        SERVICE, {"spec.serveConfigV2": "applications: [{import_path: ray_jobs.serve}]"},
        {"spec.serveConfigV2": "applications: [{import_path: 'ray_jobs.serve:build_app'}]"}),
    "commands are not empty": (STORE, {f"{BOX}.args": [""]}, {f"{BOX}.args": ["-v"]}),
}  # fmt: skip

IMAGES = {
    "images have the form of one": (STORE, {f"{BOX}.image": "Emoji LDM"}, {}),
    "images are pinned": (STORE, {f"{BOX}.image": "chrislusf/seaweedfs:4.48"}, {}),
    "images are those of the list": (STORE, {f"{BOX}.image": "nginx:1@sha256:" + "0" * 64}, {}),
    "local images are not pulled": (CLUSTER, {f"{RAY}.imagePullPolicy": "Always"}, {f"{RAY}.imagePullPolicy": "Never"}),
}  # fmt: skip

VALUES = {
    "fields hold words that exist": (
        STORE, {f"{POD}.topologySpreadConstraints.0.whenUnsatisfiable": "Never"},
        {f"{POD}.topologySpreadConstraints.0.whenUnsatisfiable": "DoNotSchedule"}),
    "quantities are quantities": (
        STORE, {f"{BOX}.resources.limits.memory": "1GB"}, {f"{BOX}.resources.limits.memory": "1.5e9"}),
    "amounts make sense": (STORE, {f"{BOX}.resources.limits.memory": "1"}, {f"{BOX}.resources.limits.memory": "2Mi"}),
    "durations are durations": (
        "PodMonitor/heads", {"spec.podMetricsEndpoints.0.interval": "soon"},
        {"spec.podMetricsEndpoints.0.interval": "1m"}),
    "ports are ports": (STORE, {f"{BOX}.ports.0.containerPort": 70000}, {f"{BOX}.ports.0.containerPort": 65535}),
    "names of ports are short": (STORE, {f"{BOX}.ports.0.name": "a-name-that-is-too-long"}, {}),
    "names of containers are labels": (STORE, {f"{BOX}.name": "The_Store"}, {f"{BOX}.name": "the-store"}),
    "names of volumes are labels": (STORE, {f"{POD}.volumes.0.name": "The_Config"}, {}),
    "names of variables are names": (STORE, {f"{BOX}.env.1": setting("A B")}, {f"{BOX}.env.1": setting("A_B")}),
    "names of objects are names": (STORE, {"metadata.name": "The_Store"}, {"metadata.name": "the.store"}),
    "named things have names": (STORE, {f"{POD}.serviceAccountName": "The_Store"}, {}),
    "the type of a service exists": ("Service/store", {"spec.type": "Cluster"}, {"spec.type": "NodePort"}),
    "blocks of addresses are networks": (
        "NetworkPolicy/internet", {"spec.egress.0.to.0.ipBlock.cidr": "10.0.0.0/33"}, {}),
    "labels are labels": (STORE, {"metadata.labels": {"app": "a b"}}, {"metadata.labels": {"app": "a"}}),
    "keys of annotations are keys": (
        STORE, {"metadata.annotations": {"a b": "c"}}, {"metadata.annotations": {"description": "a b"}}),
    "values of known annotations exist": (
        CLUSTER, {f"{HEAD}.template.metadata.annotations.karpenter~sh/do-not-disrupt": "yes"}, {}),
    "keys of labels and annotations are known": (
        CLUSTER, {f"{HEAD}.template.metadata.annotations": {"karpenter.sh/do-not-disturb": "true"}}, {}),
    "values of our labels exist": (
        CLUSTER, {f"{HEAD}.template.metadata.labels.emoji-ldm/stage": "training"}, {}),
}  # fmt: skip

LINKS = {
    "variables of config maps are known": ("ConfigMap/store", {"data.AWS_REGIN": "a"}, {"data.AWS_ENDPOINT_URL": "a"}),
    "boards are json": ("ConfigMap/boards", {"data.emoji~json": "{"}, {"data.emoji~json": "{}"}),
    "services lead to pods": ("Service/store", {"spec.ports.0.targetPort": "s4"}, {"spec.ports.0.targetPort": 8333}),
    "services of stateful sets exist": (STORE, {"spec.serviceName": "stor"}, {}),
    "bindings bind what exists": ("RoleBinding/reader", {"roleRef.name": "writer"}, {}),
    "policies of bindings exist": ("ValidatingAdmissionPolicyBinding/images", {"spec.policyName": "image"}, {}),
    "classes of node pools exist": ("NodePool/gpu-spot", {"spec.template.spec.nodeClassRef.name": "gpus"}, {}),
    "gateway classes exist": (SERVICE, {f"{UPGRADE}.gatewayClassName": "envoy"}, {}),
    "pod monitors find pods and ports": ("PodMonitor/heads", {"spec.podMetricsEndpoints.0.port": "metric"}, {}),
    "service monitors find services and ports": ("ServiceMonitor/store", {"spec.endpoints.0.port": "s4"}, {}),
}  # fmt: skip

REFERENCES = {
    "mounted volumes exist": (STORE, {f"{BOX}.volumeMounts.1.name": "configs"}, {}),
    "volumes are mounted": (STORE, {f"{POD}.volumes.1": {"name": "tmp", "emptyDir": {}}}, {}),
    "mount paths are absolute and differ": (
        STORE, {f"{BOX}.volumeMounts.1.mountPath": "/data/"}, {f"{BOX}.volumeMounts.1.mountPath": "/data/more"}),
    "config maps exist": (STORE, {f"{POD}.volumes.0.configMap.name": "emoji"}, {}),
    "files of config maps exist": (
        STORE, {f"{BOX}.args": ["/etc/emoji-ldm/emoji.yaml"]}, {f"{BOX}.args": ["/etc/emoji-ldm/emoji-ldm.yaml"]}),
    "secrets are declared": (
        STORE, {f"{BOX}.env.0.valueFrom.secretKeyRef.name": "store"},
        {f"{BOX}.env.0.valueFrom.secretKeyRef.key": "AWS_ACCESS_KEY_ID"}),
    "secrets of clusters are declared": (CLUSTER, {"spec.authOptions.secretName": "token"}, {}),
    "accounts exist": (STORE, {f"{POD}.serviceAccountName": "stor"}, {}),
    "claims exist": (
        "CronJob/sweep", {"spec.jobTemplate.spec.template.spec.volumes.0.persistentVolumeClaim.claimName": "data"}, {}),
    "priorities exist": (
        CLUSTER, {f"{HEAD_SPEC}.priorityClassName": "emoji"},
        {f"{HEAD_SPEC}.priorityClassName": "system-cluster-critical"}),
    "ports of probes exist": (
        STORE, {f"{BOX}.readinessProbe.httpGet.port": "s4"}, {f"{BOX}.readinessProbe.httpGet.port": 8333}),
    "ports and variables differ": (
        STORE, {f"{BOX}.ports.1": {"name": "s3", "containerPort": 1}},
        {f"{BOX}.ports.1": {"name": "s4", "containerPort": 1}}),
}  # fmt: skip

SCHEDULING = {
    "a gpu request tolerates gpu nodes": (JOB, {f"{JOB_WORKER}.tolerations": []}, {}),
    "only gpu requests tolerate gpu nodes": (STORE, {f"{POD}.tolerations": [{"operator": "Exists"}]}, {}),
    "pools exist": (JOB, {f"{JOB_WORKER}.nodeSelector": {"emoji-ldm/pool": "gpu"}}, {}),
    "pods on spot nodes tolerate them": (
        CLUSTER, {f"{WORKERS}.template.spec.tolerations.1": {"key": "a", "operator": "Exists"}}, {}),
    "heads stay off spot nodes": (
        CLUSTER, {f"{HEAD_SPEC}.tolerations": [{"key": "emoji-ldm/spot", "operator": "Exists"}]}, {}),
    "limits are not below requests": (
        STORE, {f"{BOX}.resources.requests.cpu": "2"}, {f"{BOX}.resources.requests.cpu": "1"}),
    "gpus are whole and equal": (
        CLUSTER, {f"{WORKERS}.template.spec.containers.0.resources.limits.{GPU}": "2"}, {}),
    "heads and gpu workers are guaranteed": (CLUSTER, {f"{RAY}.resources.requests.memory": "4Gi"}, {}),
    "every container has limits": (STORE, {f"{BOX}.resources.limits.memory": GONE}, {}),
    "resources are known": (STORE, {f"{BOX}.resources.limits.nvidia~com/gpus": "1"}, {}),
    "claims ask for storage": (
        STORE, {"spec.volumeClaimTemplates.0.spec.resources.requests": {"storag": "1Gi"}}, {}),
    "heads see no gpus": (CLUSTER, {f"{RAY}.env.0.value": "all"}, {}),
    "budgets of ray pods are numbers": (
        "PodDisruptionBudget/serve", {"spec.minAvailable": "50%"}, {"spec.minAvailable": 2}),
    "budgets select pods": (
        "PodDisruptionBudget/serve", {"spec.selector.matchLabels": {"emoji-ldm/stage": "crawl"}}, {}),
    "budgets say one thing": ("PodDisruptionBudget/serve", {"spec.maxUnavailable": 1}, {}),
    "budgets are numbers or percentages": (
        "PodDisruptionBudget/serve", {"spec.minAvailable": "half"}, {"spec.minAvailable": "50%"}),
    "selectors match their template": (STORE, {"spec.selector.matchLabels": {"app.kubernetes.io/name": "stores"}}, {}),
    "pods are spread among their own": (
        STORE, {f"{POD}.topologySpreadConstraints.0.labelSelector": {"matchLabels": {"app": "a"}}}, {}),
}  # fmt: skip

SECURITY = {
    "a pod shares nothing of its host": (STORE, {f"{POD}.hostNetwork": True}, {f"{POD}.hostNetwork": False}),
    "volumes are of allowed kinds": (STORE, {f"{POD}.volumes.0": {"name": "config", "hostPath": {"path": "/"}}}, {}),
    "only safe kernel settings are set": (
        STORE, {f"{POD}.securityContext.sysctls": [setting("kernel.msgmax")]},
        {f"{POD}.securityContext.sysctls": [setting("net.ipv4.tcp_syncookies")]}),
    "no container runs as root": (STORE, {f"{POD}.securityContext.runAsNonRoot": False}, {}),
    "every container has a seccomp profile": (
        STORE, {f"{POD}.securityContext.seccompProfile": {"type": "Unconfined"}},
        {f"{POD}.securityContext.seccompProfile": {"type": "Localhost"}}),
    "no container gains privileges": (STORE, {f"{BOX}.securityContext.allowPrivilegeEscalation": True}, {}),
    "no container keeps capabilities": (
        STORE, {f"{BOX}.securityContext.capabilities.add": ["SYS_ADMIN"]},
        {f"{BOX}.securityContext.capabilities.add": ["NET_BIND_SERVICE"]}),
    "no container unmasks proc": (STORE, {f"{BOX}.securityContext.procMount": "Unmasked"}, {}),
    "no container takes a port of its host": (STORE, {f"{BOX}.ports.0.hostPort": 80}, {}),
    "a token is mounted only where it is needed": (
        JOB, {f"{JOB_WORKER}.automountServiceAccountToken": True, f"{JOB_WORKER}.serviceAccountName": "train"},
        {f"{JOB_WORKER}.automountServiceAccountToken": True}),
    "secrets come by reference": (
        STORE, {f"{BOX}.env.0": setting("AWS_SECRET_ACCESS_KEY")}, {f"{BOX}.env.0": setting("AWS_REGION")}),
    "no secret is in git": ("Secret/a", {"stringData": {"a": "b"}}, {"stringData": {}}),
    "no config holds a key": ("ConfigMap/store", {"data.AWS_REGION": "AKIA" + "A" * 16}, {}),
    "our namespaces enforce the standard": ("Namespace/emoji-ldm", {"metadata.labels": {}}, {}),
    "no hook stops ray": (
        CLUSTER, {f"{RAY}.lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "ray stop"]}}}},
        {f"{RAY}.lifecycle": {"preStop": {"exec": {"command": ["sleep", "5"]}}}}),
    "the grace period covers the drain": (
        CLUSTER, {f"{RAY}.env.1.value": "60"}, {f"{RAY}.env.1.value": "59"}),
    "ray can write its session": (
        CLUSTER, {f"{RAY}.volumeMounts.0.mountPath": "/scratch"}, {f"{RAY}.volumeMounts.0.mountPath": "/tmp/ray"}),
}  # fmt: skip

OPERATORS = {**CLUSTERS, **AUTOSCALERS, **FAULTS, **JOBS, **SERVICES, **QUEUES, **QUOTAS}  # of KubeRay and Kueue
CASES = {**OPERATORS, **CONFIGS, **IMAGES, **VALUES, **LINKS, **REFERENCES, **SCHEDULING, **SECURITY}
