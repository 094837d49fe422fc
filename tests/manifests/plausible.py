"""Changes that a platform team makes to overlay `kind`: mistakes that the check must find, and legitimate ones.

Each is (name, {object: {path: value}}, ...): the value at a path of a rendered object is replaced; DELETE removes it; a
path that ends with `+` appends to a list. `NEW` adds whole objects. Paths are dotted, positions in lists are numbers, and
keys with dots are quoted by brackets: `labels.[kueue.x-k8s.io/queue-name]`.
"""

# ruff: noqa: E501  # one line for each change
import copy
import re

DELETE = object()
NEW = "new"
HEAD = "spec.rayClusterSpec.headGroupSpec.template.spec"
WORKER = "spec.rayClusterSpec.workerGroupSpecs.0.template.spec"
SERVE_HEAD = "spec.rayClusterConfig.headGroupSpec.template.spec"
SERVE = "spec.rayClusterConfig.workerGroupSpecs.0.template.spec"
POD = "spec.template.spec"
FLAVORS = "spec.resourceGroups.0.flavors"
DIGEST = "@sha256:" + "a" * 64
REDIS = "redis@sha256:dfa18828cbc07b3ae6a95ec7343f6c214fdee2d836197b4be8e9904420762cd8"
LIMITED = {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}}
RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
OWN_POD = {"securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
           "automountServiceAccountToken": False, "serviceAccountName": "store",
           "containers": [{"name": "own", "image": REDIS, "resources": LIMITED, "securityContext": RESTRICTED}]}  # fmt: skip


def obj(api, kind, name, **fields):
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": "emoji-ldm"}, **fields}


def sidecar(**fields):
    return {"name": "own", "image": REDIS, "resources": LIMITED, "securityContext": RESTRICTED, **fields}


MISTAKES = [
    ("fewer Pods at most than at least", {"RayService/serve": {"spec.rayClusterConfig.workerGroupSpecs.0.minReplicas": 5}}),
    ("a misspelt stage", {"RayJob/train": {"spec.entrypoint": "emoji-ldm trian --config /etc/emoji-ldm/emoji-ldm.yaml"}}),
    ("an unknown override", {"RayJob/train": {"spec.entrypoint": "emoji-ldm train --config /etc/emoji-ldm/emoji-ldm.yaml train.step=5"}}),
    ("a value of the wrong type", {"RayJob/train": {"spec.entrypoint": "emoji-ldm train --config /etc/emoji-ldm/emoji-ldm.yaml train.steps=many"}}),
    ("a configuration that is not mounted", {"RayJob/crawl": {"spec.entrypoint": "emoji-ldm crawl --config /etc/emoji/emoji-ldm.yaml"}}),
    ("an import path without a function", {"RayService/serve": {"spec.serveConfigV2": "applications:\n  - name: a\n    import_path: ray_jobs.serve\n"}}),
    ("a namespace that enforces nothing", {"Namespace/emoji-ldm": {"metadata.labels.[pod-security.kubernetes.io/enforce]": "privileged"}}),
    ("a privileged worker", {"RayJob/crawl": {WORKER + ".containers.0.securityContext.privileged": True}}),
    ("the tag latest", {"StatefulSet/redis": {POD + ".containers.0.image": "redis:latest"}}),
    ("no limit of memory", {"RayJob/crawl": {WORKER + ".containers.0.resources.limits.memory": DELETE}}),
    ("a misspelt pool", {"RayJob/train": {WORKER + ".nodeSelector.[emoji-ldm/pool]": "gpu-ondemand"}}),
    ("GPUs without a toleration", {"RayJob/train": {WORKER + ".tolerations": DELETE}}),
    ("a misspelt queue", {"RayJob/train": {"metadata.labels.[kueue.x-k8s.io/queue-name]": "trian"}}),
    ("a LocalQueue of no ClusterQueue", {"LocalQueue/batch": {"spec.clusterQueue": "bacth"}}),
    ("a misspelt flavor", {"ClusterQueue/batch": {FLAVORS + ".3.name": "gpu-sport"}}),
    ("a gang larger than its quota", {"ClusterQueue/train": {FLAVORS + ".2.resources.2.nominalQuota": "0", "spec.cohortName": DELETE}}),
    ("a disruption budget of nothing", {"PodDisruptionBudget/serve": {"spec.selector.matchLabels.[emoji-ldm/stage]": "server"}}),
    ("a budget that forbids every drain", {"PodDisruptionBudget/serve": {"spec.minAvailable": 2}}),
    ("a head open to everybody", {"NetworkPolicy/head": {"spec.ingress.0.from": DELETE}}),
    ("no names", {"NetworkPolicy/dns": {"spec.egress.0.ports.0.port": 5353}}),
    ("a volume of another name", {"StatefulSet/store": {POD + ".containers.0.volumeMounts.0.name": "date"}}),
    ("a headless Service of another name", {"StatefulSet/redis": {"spec.serviceName": "redis-headless"}}),
    ("a Service that selects nothing", {"Service/store": {"spec.selector.[app.kubernetes.io/name]": "stoer"}}),
    ("a port of a Service that nobody opens", {"Service/redis": {"spec.ports.0.targetPort": "reddis"}}),
    ("a key that the Secret lacks", {"RayService/serve": {"spec.rayClusterConfig.gcsFaultToleranceOptions.redisPassword.valueFrom.secretKeyRef.key": "pasword"}}),
    ("a Secret that nobody creates", {"RayService/serve": {"spec.rayClusterConfig.authOptions.secretName": "ray-token"}}),
    ("an account that is not there", {"RayJob/caption": {HEAD + ".serviceAccountName": "captions"}}),
    ("a priority class that is not there", {"RayJob/caption": {HEAD + ".priorityClassName": "batch"}}),
    ("batch before the store", {"PriorityClass/emoji-batch": {"value": 100000}}),
    ("batch that preempts", {"PriorityClass/emoji-batch": {"preemptionPolicy": DELETE, "value": 10}}),
    ("a schedule of four fields", {"RayCronJob/refresh": {"spec.schedule": "0 3 * *"}}),
    ("a misspelt time zone", {"RayCronJob/refresh": {"spec.timeZone": "Europe/Berln"}}),
    ("a negative number of retries", {"RayJob/crawl": {"spec.backoffLimit": -1}}),
    ("a deadline of zero", {"RayJob/crawl": {"spec.activeDeadlineSeconds": 0}}),
    ("a number where Ray wants a text", {"RayJob/crawl": {"spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus": 0}}),
    ("an older Ray than the image", {"RayJob/crawl": {"spec.rayClusterSpec.rayVersion": "2.52.0"}}),
    ("a cluster without a token", {"RayJob/crawl": {"spec.rayClusterSpec.authOptions": DELETE}}),
    ("a worker that is restarted in place", {"RayJob/caption": {WORKER + ".restartPolicy": "Always"}}),
    ("a monitor of nothing", {"PodMonitor/ray": {"spec.selector.matchLabels": {"app": "rays"}, "spec.selector.matchExpressions": DELETE}}),
    ("an alert that Prometheus cannot read", {"PrometheusRule/ray": {"spec.groups.0.rules.0.expr": "sum(up{job='ray'} == 0"}}),
    ("more scratch space than the Pod may use", {"RayJob/crawl": {WORKER + ".volumes.1.emptyDir.sizeLimit": "50Gi"}}),
    ("less time to end than to drain", {"RayService/serve": {SERVE + ".terminationGracePeriodSeconds": 30}}),
    ("a probe of a port that is not open", {"StatefulSet/store": {POD + ".containers.0.readinessProbe.httpGet.port": "http"}}),
    ("a gateway class that is not there", {"RayService/serve": {"spec.upgradeStrategy.clusterUpgradeOptions.gatewayClassName": "istio"}}),
    ("a Redis that is not there", {"RayService/serve": {"spec.rayClusterConfig.gcsFaultToleranceOptions.redisAddress": "redis-master:6379"}}),
    ("CPUs in words", {"RayJob/crawl": {WORKER + ".containers.0.resources.limits.cpu": "2 cores"}}),
    ("a size in lower case", {"StatefulSet/store": {POD + ".containers.0.resources.limits.memory": "4gb"}}),
    ("one variable twice", {"RayJob/crawl": {WORKER + ".containers.0.env.+": {"name": "HOME", "value": "/home/emoji"}}}),
    ("a ConfigMap without its hash", {"RayJob/crawl": {HEAD + ".volumes.0.configMap.name": "emoji"}}),
    ("a sidecar before Ray", {"RayJob/crawl": {WORKER + ".containers": [sidecar()]}}),
    ("a folder of the node", {"RayJob/crawl": {WORKER + ".volumes.+": {"name": "cache", "hostPath": {"path": "/var/cache"}}}}),
    ("a store on the internet", {"Service/store": {"spec.type": "LoadBalancer"}}),
    ("a binding of no policy", {"ValidatingAdmissionPolicyBinding/emoji-ldm-images": {"spec.policyName": "emoji-ldm-image"}}),
    ("a policy that does not compile", {"ValidatingAdmissionPolicy/emoji-ldm-pods": {"spec.validations.0.expression": "variables.specs.all(s, s.hostPID"}}),
    ("queues for another namespace", {"ClusterQueue/batch": {"spec.namespaceSelector.matchLabels.[kubernetes.io/metadata.name]": "emoji"}}),
    ("spot Pods that tolerate no spot node", {"RayJob/caption": {"spec.rayClusterSpec.workerGroupSpecs.1.template.spec.tolerations.1": DELETE}}),
    ("two stores that know nothing of each other", {"StatefulSet/store": {"spec.replicas": 2}}),
    ("more rows of workers than GPUs", {"RayJob/train": {"spec.rayClusterSpec.workerGroupSpecs.0.replicas": 4, "spec.rayClusterSpec.workerGroupSpecs.0.minReplicas": 4, "spec.rayClusterSpec.workerGroupSpecs.0.maxReplicas": 4}}),
    ("keys that nobody mounts", {"RayService/serve": {SERVE + ".containers.0.volumeMounts": [{"name": "config", "mountPath": "/etc/emoji-ldm"}, {"name": "tmp", "mountPath": "/tmp"}]}}),
    ("a claim of another class of access", {"StatefulSet/redis": {"spec.volumeClaimTemplates.0.spec.accessModes.0": "ReadWriteOne"}}),
    ("a job that everybody may start twice", {"CronJob/store-sweep": {"spec.concurrencyPolicy": "Always"}}),
]  # fmt: skip

LEGITIMATE = [
    ("more replicas of the service", {"RayService/serve": {"spec.rayClusterConfig.workerGroupSpecs.0.maxReplicas": 3}}),
    ("more retries", {"RayJob/crawl": {"spec.backoffLimit": 5}}),
    ("jobs kept for a day", {"RayJob/crawl": {"spec.ttlSecondsAfterFinished": 86400}}),
    ("a longer deadline", {"RayJob/caption": {"spec.activeDeadlineSeconds": 172800}}),
    ("a label of the team", {"RayJob/crawl": {"metadata.labels.team": "images", "spec.rayClusterSpec.headGroupSpec.template.metadata.labels.team": "images"}}),
    ("an annotation of a tool", {"StatefulSet/store": {"metadata.annotations": {"backup.velero.io/backup-volumes": "data"}}}),
    ("one more variable", {"RayJob/crawl": {WORKER + ".containers.0.env.+": {"name": "RAY_LOG_LEVEL", "value": "debug"}}}),
    ("a toleration of own nodes", {"StatefulSet/store": {POD + ".tolerations": [{"key": "storage", "operator": "Exists", "effect": "NoSchedule"}]}}),
    ("an affinity to own nodes", {"StatefulSet/store": {POD + ".affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}}]}}}}),
    ("an architecture", {"StatefulSet/redis": {POD + ".nodeSelector": {"kubernetes.io/arch": "amd64"}}}),
    ("a Secret of a registry", {"ServiceAccount/store": {"imagePullSecrets": [{"name": "registry"}]}}),
    ("a mirror of the same digest", {"StatefulSet/redis": {POD + ".containers.0.image": "mirror.example.org/library/" + REDIS}}),
    ("an own registry", {"RayJob/crawl": {"spec.submitterPodTemplate.spec.containers.0.image": "registry.example.org/emoji-ldm-cpu" + DIGEST}}),
    ("longer training", {"RayJob/train": {"spec.entrypoint": "emoji-ldm train --config /etc/emoji-ldm/emoji-ldm.yaml train.steps=5000 train.batch_size=8"}}),
    ("an own ConfigMap", {NEW: obj("v1", "ConfigMap", "own", data={"a": "b"})}),
    ("an own Deployment", {NEW: obj("apps/v1", "Deployment", "own", spec={"replicas": 1, "selector": {"matchLabels": {"app": "own"}}, "template": {"metadata": {"labels": {"app": "own", "app.kubernetes.io/part-of": "emoji-ldm"}}, "spec": OWN_POD}})}),
    ("an own CronJob", {NEW: obj("batch/v1", "CronJob", "backup", spec={"schedule": "0 4 * * *", "jobTemplate": {"spec": {"template": {"spec": {**OWN_POD, "restartPolicy": "Never"}}}}})}),
    ("an own claim", {NEW: obj("v1", "PersistentVolumeClaim", "own", spec={"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}})}),
    ("a larger store", {"StatefulSet/store": {"spec.volumeClaimTemplates.0.spec.resources.requests.storage": "500Gi"}}),
    ("more memory of the store", {"StatefulSet/store": {POD + ".containers.0.resources.limits.memory": "4Gi", POD + ".containers.0.resources.requests.memory": "4Gi"}}),
    ("a storage class", {"StatefulSet/store": {"spec.volumeClaimTemplates.0.spec.storageClassName": "fast-ssd"}}),
    ("rarer scrapes", {"PodMonitor/ray": {"spec.podMetricsEndpoints.0.interval": "60s"}}),
    ("one more alert", {"PrometheusRule/ray": {"spec.groups.0.rules.+": {"alert": "OwnAlert", "expr": "up == 0", "for": "5m", "labels": {"severity": "warning"}, "annotations": {"summary": "own", "runbook_url": "https://wiki.example.org/own"}}}}),
    ("a more patient alert", {"PrometheusRule/ray": {"spec.groups.0.rules.0.for": "30m"}}),
    ("an own priority class", {NEW: {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "own"}, "value": -20}}),
    ("an activated nightly job", {"RayCronJob/refresh": {"spec.suspend": False, "spec.schedule": "30 1 * * 1-5", "spec.timeZone": "Europe/Berlin"}}),
    ("an annotation of a Service", {"Service/store": {"metadata.annotations": {"service.kubernetes.io/topology-mode": "Auto"}}}),
    ("longer responses", {"RayService/serve": {"metadata.annotations": {"own": "x"}}}),
    ("larger quotas", {"ClusterQueue/batch": {FLAVORS + ".3.resources.2.nominalQuota": "32", FLAVORS + ".3.resources.0.nominalQuota": "80", FLAVORS + ".3.resources.1.nominalQuota": "192Gi"}}),
    ("a limit of borrowing", {"ClusterQueue/batch": {FLAVORS + ".2.resources.2.borrowingLimit": "1"}}),
    ("idle workers kept longer", {"RayJob/caption": {"spec.rayClusterSpec.workerGroupSpecs.0.idleTimeoutSeconds": 600}}),
    ("a larger head", {"RayJob/crawl": {HEAD + ".containers.0.resources": {"requests": {"cpu": "2", "memory": "4Gi", "ephemeral-storage": "5Gi"}, "limits": {"cpu": "2", "memory": "4Gi", "ephemeral-storage": "5Gi"}}}}),
    ("more time to end", {"RayJob/crawl": {WORKER + ".terminationGracePeriodSeconds": 120}}),
    ("a runtime class", {"RayJob/train": {WORKER + ".runtimeClassName": "nvidia"}}),
    ("a sidecar that starts before Ray", {"RayJob/crawl": {WORKER + ".initContainers.+": sidecar(name="proxy", restartPolicy="Always")}}),
    ("a sidecar after Ray", {"RayJob/crawl": {WORKER + ".containers.+": sidecar()}}),
    ("a cache", {"RayJob/crawl": {WORKER + ".volumes.+": {"name": "cache", "emptyDir": {"sizeLimit": "100Mi"}}, WORKER + ".containers.0.volumeMounts.+": {"name": "cache", "mountPath": "/cache"}}}),
    ("settings of DNS", {"RayJob/crawl": {WORKER + ".dnsConfig": {"options": [{"name": "ndots", "value": "2"}]}}}),
    ("a label of the namespace", {"Namespace/emoji-ldm": {"metadata.labels.cost-center": "42"}}),
    ("a role of a cloud", {"ServiceAccount/crawl": {"metadata.annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::111122223333:role/crawl"}}}),
    ("a team that may run stages", {NEW: obj("rbac.authorization.k8s.io/v1", "RoleBinding", "artists", roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "run-stages"}, subjects=[{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "artists"}])}),
    ("an Ingress with TLS", {NEW: obj("networking.k8s.io/v1", "Ingress", "serve", spec={"ingressClassName": "nginx", "tls": [{"hosts": ["emoji.example.org"], "secretName": "emoji-tls"}], "rules": [{"host": "emoji.example.org", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "serve-serve-svc", "port": {"number": 8000}}}}]}}]})}),
    ("a quota of the namespace", {NEW: obj("v1", "ResourceQuota", "own", spec={"hard": {"requests.cpu": "200", "requests.memory": "800Gi"}})}),
    ("defaults of limits", {NEW: obj("v1", "LimitRange", "own", spec={"limits": [{"type": "Container", "default": {"cpu": "1", "memory": "1Gi"}}]})}),
    ("a Secret from a vault", {NEW: obj("external-secrets.io/v1", "ExternalSecret", "emoji-ldm-token", spec={"secretStoreRef": {"name": "vault", "kind": "ClusterSecretStore"}, "data": [{"secretKey": "auth_token", "remoteRef": {"key": "emoji"}}]})}),
    ("a certificate", {NEW: obj("cert-manager.io/v1", "Certificate", "emoji", spec={"secretName": "emoji-tls", "dnsNames": ["emoji.example.org"], "issuerRef": {"name": "letsencrypt", "kind": "ClusterIssuer"}})}),
]  # fmt: skip


def changed(objects, edits):
    """A copy of the objects with one change."""
    objects = copy.deepcopy(objects)
    by_name = {f"{one['kind']}/{one['metadata']['name']}": one for one in objects}
    for target, paths in edits.items():
        if target == NEW:
            objects.append(copy.deepcopy(paths))
            continue
        for path, value in paths.items():
            _set(by_name[target], path, value)
    return objects


def _set(value, path, new):
    steps = re.findall(r"\[([^\]]+)\]|([^.\[\]]+)", path)
    steps = [quoted or plain for quoted, plain in steps]
    for step in steps[:-1]:
        is_list = steps[-1] == "+" and step is steps[-2]
        value = value[int(step)] if isinstance(value, list) else value.setdefault(step, [] if is_list else {})
    last = steps[-1]
    if last == "+":
        value.append(copy.deepcopy(new))
    elif isinstance(value, list):
        if new is DELETE:
            del value[int(last)]
        else:
            value[int(last)] = copy.deepcopy(new)
    elif new is DELETE:
        del value[last]
    else:
        value[last] = copy.deepcopy(new)
