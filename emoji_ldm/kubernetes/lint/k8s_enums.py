"""Values and formats that Kubernetes accepts where its schemas only say "string".

Sources: k8s.io/api/core/v1/types.go and apimachinery/pkg/util/validation at 1.35; `ray start --help` of Ray 2.60 (a
test compares the list).
"""

from __future__ import annotations

import re

# The lengths are those of the API server: 63 characters for labels and their keys, 15 for names of ports.
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
PORT_NAME = re.compile(r"(?=.{1,15}$)(?=.*[a-z])(?!.*--)[a-z0-9]([-a-z0-9]*[a-z0-9])?")
ENV_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
# The grammar of image references (github.com/distribution/reference): a registry with an optional port, a path in lower
# case, then a tag, a digest, or both.
IMAGE = re.compile(
    r"(?P<name>(?:[a-zA-Z0-9.-]+(?::\d+)?/)?[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
    r"(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*)"
    r"(?::(?P<tag>[\w][\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)

# KubeRay turns rayStartParams into options of `ray start` without knowing them, so only this list can find a misspelt
# one.
START_OPTIONS_TEXT = """
address autoscaling-config block cgroup-path dashboard-agent-grpc-port dashboard-agent-listen-port dashboard-host
dashboard-port disable-usage-stats enable-object-reconstruction enable-resource-isolation head include-dashboard
include-log-monitor labels labels-file log-color log-style max-worker-port memory metrics-export-port
min-worker-port no-monitor no-redirect-output node-ip-address node-manager-port node-name num-cpus num-gpus
object-manager-port object-spilling-directory object-store-memory plasma-directory port proxy-server-url
ray-client-server-port ray-debugger-external redis-password redis-shard-ports redis-username resources
runtime-env-agent-port system-config system-reserved-cpu system-reserved-memory temp-dir tracing-startup-hook v
verbose worker-port-list
"""
START_OPTIONS = frozenset(START_OPTIONS_TEXT.split())

# The resources that this project uses. Any other name is valid for Kubernetes and waits for a node that offers it.
RESOURCES = frozenset({"cpu", "memory", "ephemeral-storage", "nvidia.com/gpu"})
# What a site may request beside them: parts of a GPU (MIG), and the network cards of AWS for NCCL.
GPU_PART = re.compile(r"nvidia\.com/mig-\d+g\.\d+gb")
DEVICES = re.compile(rf"{GPU_PART.pattern}|vpc\.amazonaws\.com/efa")

# The values that a field accepts, by its name, or by the names of its parent and itself where one name is ambiguous.
ALLOWED_VALUES: dict[str, tuple[str, ...]] = {
    "restartPolicy": ("Always", "OnFailure", "Never"),
    "imagePullPolicy": ("Always", "IfNotPresent", "Never"),
    "protocol": ("TCP", "UDP", "SCTP"),
    "dnsPolicy": ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"),
    "effect": ("NoSchedule", "PreferNoSchedule", "NoExecute"),
    "whenUnsatisfiable": ("DoNotSchedule", "ScheduleAnyway"),
    "nodeAffinityPolicy": ("Honor", "Ignore"),
    "nodeTaintsPolicy": ("Honor", "Ignore"),
    "podManagementPolicy": ("OrderedReady", "Parallel"),
    "concurrencyPolicy": ("Allow", "Forbid", "Replace"),
    "preemptionPolicy": ("PreemptLowerPriority", "Never"),
    "fsGroupChangePolicy": ("OnRootMismatch", "Always"),
    "terminationMessagePolicy": ("File", "FallbackToLogsOnError"),
    "unhealthyPodEvictionPolicy": ("IfHealthyBudget", "AlwaysAllow"),
    "volumeMode": ("Filesystem", "Block"),
    "whenDeleted": ("Retain", "Delete"),
    "whenScaled": ("Retain", "Delete"),
    "completionMode": ("NonIndexed", "Indexed"),
    "externalTrafficPolicy": ("Cluster", "Local"),
    "internalTrafficPolicy": ("Cluster", "Local"),
    "sessionAffinity": ("None", "ClientIP"),
    "ipFamilyPolicy": ("SingleStack", "PreferDualStack", "RequireDualStack"),
    "failurePolicy": ("Fail", "Ignore"),
    "matchPolicy": ("Exact", "Equivalent"),
    "submissionMode": ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"),
    # The downward API: what a variable of a Pod may be taken from.
    "fieldPath": (
        "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
        "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
    ),
    "roleRef.kind": ("Role", "ClusterRole"),
    "roleRef.apiGroup": ("rbac.authorization.k8s.io",),
    "subjects.kind": ("ServiceAccount", "User", "Group"),
    "accessModes": ("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"),
    "policyTypes": ("Ingress", "Egress"),
    "verbs": ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "bind", "escalate",
              "impersonate", "use", "*"),
    "operations": ("CREATE", "UPDATE", "DELETE", "CONNECT", "*"),
    "validationActions": ("Deny", "Warn", "Audit"),
    "tolerations.operator": ("Equal", "Exists"),
    "matchExpressions.operator": ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"),
    "requirements.operator": ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt", "Gte", "Lte"),
    "seccompProfile.type": ("RuntimeDefault", "Localhost", "Unconfined"),
    "updateStrategy.type": ("RollingUpdate", "OnDelete"),
    "strategy.type": ("RollingUpdate", "Recreate"),
    "upgradeStrategy.type": ("NewCluster", "NewClusterWithIncrementalUpgrade", "None", "Recreate"),
    "httpGet.scheme": ("HTTP", "HTTPS"),
    "emptyDir.medium": ("", "Memory"),
}  # fmt: skip
SERVICE_TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")

QUANTITIES = ("requests", "limits", "hard", "capacity", "min", "max")  # maps whose values are quantities
QUANTITY_FIELDS = ("sizeLimit", "nominalQuota", "borrowingLimit", "lendingLimit", "divisor", "volumeSize")
DURATIONS = ("interval", "scrapeTimeout", "consolidateAfter", "terminationGracePeriod", "evaluation_interval")
PORTS = ("containerPort", "hostPort", "nodePort", "endPort")
LABEL_MAPS = ("labels", "matchLabels", "nodeSelector", "nodeLabels", "selector")

# Keys of labels and annotations: those of this project, and those of the operators that it uses.
KEYS_TEXT = """
emoji-ldm/stage emoji-ldm/role emoji-ldm/submit emoji-ldm/pool emoji-ldm/internet emoji-ldm/spot
emoji-ldm/local-images ray.io/cluster ray.io/node-type ray.io/group ray.io/is-ray-node ray.io/serve
ray.io/initializing-timeout ray.io/originated-from-crd ray.io/originated-from-cr-name ray.io/identifier
ray.io/overwrite-container-cmd kueue.x-k8s.io/queue-name kueue.x-k8s.io/priority-class kueue.x-k8s.io/elastic-job
kueue.x-k8s.io/podset-required-topology kueue.x-k8s.io/podset-preferred-topology
kueue.x-k8s.io/podset-unconstrained-topology kueue.x-k8s.io/podset-group-name kueue.x-k8s.io/max-exec-time-seconds
karpenter.sh/do-not-disrupt karpenter.sh/capacity-type karpenter.sh/nodepool karpenter.sh/discovery
karpenter.k8s.aws/instance-gpu-count karpenter.k8s.aws/instance-family karpenter.k8s.aws/instance-size
karpenter.k8s.aws/instance-category karpenter.k8s.aws/instance-generation karpenter.k8s.aws/instance-gpu-name
karpenter.k8s.aws/instance-cpu karpenter.k8s.aws/instance-memory karpenter.k8s.aws/ec2nodeclass
app.kubernetes.io/name app.kubernetes.io/part-of app.kubernetes.io/component app.kubernetes.io/instance
app.kubernetes.io/version app.kubernetes.io/managed-by app.kubernetes.io/created-by kubernetes.io/metadata.name
kubernetes.io/hostname kubernetes.io/arch kubernetes.io/os kubernetes.io/description
node.kubernetes.io/instance-type topology.kubernetes.io/zone topology.kubernetes.io/region
pod-security.kubernetes.io/enforce pod-security.kubernetes.io/enforce-version pod-security.kubernetes.io/warn
pod-security.kubernetes.io/warn-version pod-security.kubernetes.io/audit pod-security.kubernetes.io/audit-version
cluster-autoscaler.kubernetes.io/safe-to-evict nvidia.com/gpu.present nvidia.com/gpu.product nvidia.com/gpu
eks.amazonaws.com/role-arn batch.kubernetes.io/job-name
"""
KEYS = frozenset(KEYS_TEXT.split())
# Keys without a prefix belong to nobody, so these are the ones that charts, alerts and boards of this project use.
PLAIN_KEYS_TEXT = """
k8s-app app control-plane release heritage component run team cost-center severity page grafana_dashboard
grafana_folder alert runbook_url summary description owner stage job-name tier prometheus role name
"""
PLAIN_KEYS = frozenset(PLAIN_KEYS_TEXT.split())


def qualified_name(text: str) -> bool:
    """Whether a text is a valid key of a label or annotation: a name, optionally with a DNS prefix and a slash."""
    prefix, slash, name = text.rpartition("/")
    return bool(LABEL_NAME.fullmatch(name)) and (not slash or bool(SUBDOMAIN.fullmatch(prefix)))
