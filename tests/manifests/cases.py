"""For every rule of this project: edits of the good overlay that break it, and edits that do not (see operators.py)."""

from tests.manifests.good import GONE
from tests.manifests.operators import (
    BOX,
    CLUSTER,
    GPU,
    HEAD,
    HEAD_SPEC,
    JOB,
    JOB_WORKER,
    OPERATORS,
    POD,
    RAY,
    SERVICE,
    STORE,
    UPGRADE,
    WORKERS,
    setting,
)

WORKERS_OF_TRAINING = {"emoji-ldm/stage": "train", "emoji-ldm/role": "worker"}
CONFIGS = {
    "configs are valid": (
        "ConfigMap/emoji-ldm", {"data.emoji-ldm~yaml": "train: {num_worker: 1}"}, {"data.emoji-ldm~yaml": "run: a"}),
    "entrypoints are commands": (JOB, {"spec.entrypoint": "emoji-ldm trane"}, {"spec.entrypoint": "emoji-ldm crawl"}),
    "overrides are fields of the config": (
        JOB, {"spec.entrypoint": "emoji-ldm train train.setps=9"},
        {"spec.entrypoint": "emoji-ldm train train.steps=9"}),
    "configs lie where commands look": (
        JOB, {"spec.entrypoint": "emoji-ldm train --config /etc/emoji-ldm/emoji.yaml"}, {}),
    "training uses the gpus that it asks for": (
        JOB, {"spec.rayClusterSpec.workerGroupSpecs.0.replicas": 4,
              "spec.rayClusterSpec.workerGroupSpecs.0.minReplicas": 4,
              "spec.rayClusterSpec.workerGroupSpecs.0.maxReplicas": 4},
        {"spec.entrypoint": "emoji-ldm train train.num_workers=3"}),
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
    "keys of labels and annotations are spelt right": (
        CLUSTER, {f"{HEAD}.template.metadata.annotations": {"karpenter.sh/do-not-disturb": "true"}}, {}),
    "values of our labels exist": (
        CLUSTER, {f"{HEAD}.template.metadata.labels.emoji-ldm/stage": "training"}, {}),
}  # fmt: skip

LINKS = {
    "objects lie in their namespace": (
        "Service/store", {"metadata.namespace": "emoji"}, {"metadata.namespace": "monitoring"}),
    "variables of config maps are known": ("ConfigMap/store", {"data.AWS_REGIN": "a"}, {"data.AWS_ENDPOINT_URL": "a"}),
    "boards are json": ("ConfigMap/boards", {"data.emoji~json": "{"}, {"data.emoji~json": "{}"}),
    "services lead to pods": ("Service/store", {"spec.ports.0.targetPort": "s4"}, {"spec.ports.0.targetPort": 8333}),
    "services of stateful sets exist": (STORE, {"spec.serviceName": "stor"}, {}),
    "bindings bind what exists": ("RoleBinding/reader", {"roleRef.name": "writer"}, {}),
    "policies of bindings exist": ("ValidatingAdmissionPolicyBinding/images", {"spec.policyName": "image"}, {}),
    "classes of node pools exist": ("NodePool/gpu-spot", {"spec.template.spec.nodeClassRef.name": "gpus"}, {}),
    "gateway classes exist": (SERVICE, {f"{UPGRADE}.gatewayClassName": "envoy"}, {}),
    "expressions of alerts are closed": (
        "PrometheusRule/ray", {"spec.groups.0.rules.0.expr": "sum(up{job='ray'} == 0"},
        {"spec.groups.0.rules.0.expr": "up{job=~\"a(b\"} == 0"}),
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
    "node pools have a flavor": ("NodePool/gpu-spot", {"spec.template.metadata.labels.emoji-ldm/pool": "gpu"}, {}),
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

AVAILABILITY = {
    "work does not outrank what it needs": ("PriorityClass/emoji-train", {"value": 5}, {"value": -1}),
    "budgets let one of several go": (
        "PodDisruptionBudget/serve", {"spec.minAvailable": 20, "spec.selector.matchLabels": WORKERS_OF_TRAINING},
        {"spec.minAvailable": 1}),
    "scratch space lies within the limit": (
        CLUSTER, {f"{RAY}.resources.limits.ephemeral-storage": "1Gi"},
        {f"{RAY}.resources.limits.ephemeral-storage": "5Gi"}),
    "single servers have one pod": (STORE, {"spec.replicas": 2}, {"spec.replicas": 1}),
    "data is not public": ("Service/store", {"spec.type": "LoadBalancer"}, {"spec.type": "ClusterIP"}),
    "the redis of a cluster exists": (
        SERVICE, {"spec.rayClusterConfig.gcsFaultToleranceOptions.redisAddress": "redis-master:6379"},
        {"spec.rayClusterConfig.gcsFaultToleranceOptions.redisAddress": "rediss://redis.example.org:6379"}),
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

CASES = {**OPERATORS, **CONFIGS, **IMAGES, **VALUES, **LINKS, **REFERENCES, **SCHEDULING, **AVAILABILITY, **SECURITY}
