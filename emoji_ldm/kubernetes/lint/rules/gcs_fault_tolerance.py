"""Rules of KubeRay for GCS fault tolerance: Redis keeps the control store, so that a cluster survives its head."""

from __future__ import annotations

from emoji_ldm.kubernetes.lint.rules.rule import CLUSTER, RuleTarget, Violations, env, head_container, rule

# Redis can be configured by annotations, by variables of the head, by start options and by gcsFaultToleranceOptions;
# the first three are older. The operator turns the options into those variables itself, so that a second source for one
# of them would contradict it, and it refuses most such mixtures.
HEAD_ENV = ("headGroupSpec", "template", "spec", "containers", 0, "env")
OPTIONS = ("gcsFaultToleranceOptions",)


@rule(CLUSTER)
def fault_tolerance_is_said_once(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go RayFTEnabledAnnotationKey."""
    if target.annotations.get("ray.io/ft-enabled") and target.value.get("gcsFaultToleranceOptions"):
        yield OPTIONS, "the annotation ray.io/ft-enabled and gcsFaultToleranceOptions are both set: keep the latter"


@rule(CLUSTER)
def a_redis_address_is_an_option(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go RAY_REDIS_ADDRESS.

    With options the variable is refused, without them it silently switches fault tolerance on.
    """
    if env(head_container(target.value), "RAY_REDIS_ADDRESS"):
        yield HEAD_ENV, "RAY_REDIS_ADDRESS must not be set: use gcsFaultToleranceOptions.redisAddress"


@rule(CLUSTER)
def a_redis_password_is_an_option(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go REDIS_PASSWORD."""
    # Without the options KubeRay tolerates the variable, since nothing else would set it then.
    if target.value.get("gcsFaultToleranceOptions") and env(head_container(target.value), "REDIS_PASSWORD"):
        yield HEAD_ENV, "REDIS_PASSWORD must not be set: use gcsFaultToleranceOptions.redisPassword"


@rule(CLUSTER)
def a_redis_password_is_no_start_option(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go redis-password."""
    # It is refused with and without the options: start options are arguments of a command line, so the password would
    # be readable in every listing of the Pod.
    if (target.value["headGroupSpec"].get("rayStartParams") or {}).get("redis-password"):
        where = ("headGroupSpec", "rayStartParams", "redis-password")
        yield where, "redis-password must not be set: use gcsFaultToleranceOptions.redisPassword"


@rule(CLUSTER)
def a_redis_user_is_an_option(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go REDIS_USERNAME."""
    start = target.value["headGroupSpec"].get("rayStartParams") or {}
    if start.get("redis-username") or env(head_container(target.value), "REDIS_USERNAME"):
        yield ("headGroupSpec",), "set the Redis user in gcsFaultToleranceOptions.redisUsername"


@rule(CLUSTER)
def the_namespace_in_redis_is_no_annotation(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go RayExternalStorageNSAnnotationKey."""
    if target.annotations.get("ray.io/external-storage-namespace") and target.value.get("gcsFaultToleranceOptions"):
        yield OPTIONS, "the annotation ray.io/external-storage-namespace is refused beside gcsFaultToleranceOptions"


@rule(CLUSTER, "RayService")
def a_service_has_no_fixed_namespace_in_redis(target: RuleTarget) -> Violations:
    """ray#66057: the old and the new cluster of an upgrade would share one namespace, and the old one empties it."""
    # Left unset, each RayCluster uses a namespace of its own, and the Job that empties Redis after an upgrade cannot
    # touch the state of the new cluster.
    if (target.value.get("gcsFaultToleranceOptions") or {}).get("externalStorageNamespace"):
        yield (
            (*OPTIONS, "externalStorageNamespace"),
            "leave it unset on a RayService: old and new cluster would share it",
        )


@rule(CLUSTER)
def the_backend_is_redis(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go validateGcsFaultToleranceBackend."""
    # The schema accepts both fields although the pinned operator does not act on them by default. Without fault
    # tolerance a restarted head forgets all actors, so that is an error rather than a warning.
    options = target.value.get("gcsFaultToleranceOptions") or {}
    if options.get("backend") == "rocksdb":
        yield (*OPTIONS, "backend"), "rocksdb needs the feature gate GCSFaultToleranceEmbeddedStorage, which is off"
    elif options.get("storage"):
        yield (*OPTIONS, "storage"), "storage is for the rocksdb backend only"


@rule(CLUSTER)
def the_redis_password_comes_from_a_secret(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/common/pod.go: the password becomes REDIS_PASSWORD."""
    # A literal value would be readable in the manifest, and so in git. Redis of this project always asks for a
    # password.
    options = target.value.get("gcsFaultToleranceOptions") or {}
    if "redisAddress" in options and not (options.get("redisPassword") or {}).get("valueFrom"):
        yield OPTIONS, "redisPassword must come from a Secret (valueFrom.secretKeyRef)"
