"""Rules of KubeRay for RayJobs, and for the jobs that a RayCronJob creates."""

from __future__ import annotations

import itertools
import re
import zoneinfo

import yaml

from emoji_ldm.kubernetes.lint.quantities import duration_s
from emoji_ldm.kubernetes.lint.rendering import KubeObject
from emoji_ldm.kubernetes.lint.rules.rule import JOB, OBJECT, RuleTarget, Violations, autoscaled, rule

# What contains something is deleted last: a cluster contains its workers, and a RayJob contains its cluster.
DELETION_ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")
CRON_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
CRON_PART = re.compile(r"(?:[*?]|(\w+)(?:-(\w+))?)(?:/(\d+))?")
# The index of a name is its number, so months start with a name that never matches.
MONTHS = ("", "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
CRON_NAMES = (
    (),
    (),
    (),
    MONTHS,
    ("sun", "mon", "tue", "wed", "thu", "fri", "sat"),
)
RULES_PATH = ("deletionStrategy", "deletionRules")


@rule(JOB)
def a_suspended_job_goes_with_its_cluster(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateRayJobSpec."""
    # Suspending a job means to delete its cluster, which the user forbids without shutdownAfterJobFinishes. Kueue
    # suspends every job that it queues, so this holds for all of them.
    if target.value.get("suspend") and not target.value.get("shutdownAfterJobFinishes"):
        yield ("suspend",), "suspend needs shutdownAfterJobFinishes"


@rule(JOB)
def a_ttl_is_not_negative(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateRayJobSpec."""
    if (target.value.get("ttlSecondsAfterFinished") or 0) < 0:
        yield ("ttlSecondsAfterFinished",), "ttlSecondsAfterFinished is negative"


@rule(JOB)
def a_ttl_needs_a_cluster_that_goes(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go validateDeletionConfiguration."""
    if (target.value.get("ttlSecondsAfterFinished") or 0) > 0 and not target.value.get("shutdownAfterJobFinishes"):
        yield ("ttlSecondsAfterFinished",), "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"


@rule(JOB)
def a_job_has_a_cluster(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateRayJobSpec."""
    if not target.value.get("rayClusterSpec") and not target.value.get("clusterSelector"):
        yield (), "one of rayClusterSpec and clusterSelector must be set"


@rule(JOB)
def a_job_on_a_standing_cluster_names_it(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateRayJobSpec."""
    selector = target.value.get("clusterSelector")
    if selector and not selector.get("ray.io/cluster"):
        yield ("clusterSelector",), "clusterSelector must name the cluster: ray.io/cluster"


@rule(JOB)
def a_job_on_a_standing_cluster_is_simple(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateRayJobSpec.

    It can be neither suspended nor retried, and needs a submitter of its own.
    """
    # A retry or a suspension would delete the cluster, which belongs to somebody else, and a sidecar would have to be
    # added to a head that is already running.
    part = target.value
    if not part.get("clusterSelector"):
        return
    if part.get("suspend"):
        yield ("suspend",), "a job with clusterSelector cannot be suspended"
    if (part.get("backoffLimit") or 0) > 0:
        yield ("backoffLimit",), "a job with clusterSelector cannot be retried"
    if part.get("submissionMode") == "SidecarMode":
        yield ("submissionMode",), "a job with clusterSelector cannot use SidecarMode"


@rule(JOB)
def an_interactive_job_is_not_retried(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateRayJobSpec."""
    # The id of the first attempt stays in the specification, so the operator would take a retry for the old job
    # (kuberay#3525).
    if target.value.get("submissionMode") == "InteractiveMode" and (target.value.get("backoffLimit") or 0) > 0:
        yield ("backoffLimit",), "InteractiveMode allows no backoffLimit"


@rule(JOB)
def a_sidecar_takes_no_submitter(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateRayJobSpec."""
    # In this mode the submitter is a container of the head, so a template for a Pod of its own would have no effect.
    for key in ("submitterPodTemplate", "submitterConfig"):
        if target.value.get("submissionMode") == "SidecarMode" and target.value.get(key):
            yield (key,), f"SidecarMode takes no {key}"


@rule(JOB)
def a_sidecars_head_is_never_restarted(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateRayJobSpec."""
    head = ((target.cluster or {}).get("headGroupSpec") or {}).get("template", {}).get("spec", {})
    if target.value.get("submissionMode") == "SidecarMode" and head.get("restartPolicy") not in (None, "", "Never"):
        yield ("submissionMode",), "SidecarMode requires restartPolicy Never on the head"


@rule(JOB)
def the_submission_mode_exists(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/common/job.go: an unknown mode passes the schema and starts nothing."""
    modes = ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode")
    if target.value.get("submissionMode", "K8sJobMode") not in modes:
        yield ("submissionMode",), f"submissionMode is one of {', '.join(modes)}"


@rule(JOB)
def the_submitter_can_be_restricted(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/common/job.go: only the submitter's template carries a security context.

    The containers that other modes add, and the default submitter, have no security context.
    """
    mode = target.value.get("submissionMode", "K8sJobMode")
    if mode == "SidecarMode":
        yield ("submissionMode",), "the sidecar has no security context: a restricted namespace refuses the head"
    if mode == "K8sJobMode" and not target.value.get("submitterPodTemplate"):
        yield (), "submitterPodTemplate is missing: the default one is not restricted"


@rule(JOB)
def deadlines_are_positive(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateRayJobSpec."""
    for key in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if (value := target.value.get(key)) is not None and value <= 0:
            yield (key,), f"{key} must be positive"


@rule(JOB)
def a_job_ends_some_day(target: RuleTarget) -> Violations:
    """kuberay#3860, #4824: a job whose head Pod dies can hang."""
    # KubeRay sets no deadline by itself. A job that hangs keeps its quota and its GPUs, and the queue behind it waits.
    if target.value.get("activeDeadlineSeconds") is None:
        yield (), "activeDeadlineSeconds is missing: a job whose head Pod dies can hang forever"


@rule(JOB)
def retries_are_not_negative(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateRayJobSpec."""
    if (target.value.get("backoffLimit") or 0) < 0:
        yield ("backoffLimit",), "backoffLimit is negative"


@rule(JOB)
def the_runtime_environment_is_a_mapping(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateRayJobSpec, UnmarshalRuntimeEnvYAML."""
    if text := target.value.get("runtimeEnvYAML"):
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = None
        if not isinstance(value, dict):
            yield ("runtimeEnvYAML",), "runtimeEnvYAML holds no YAML mapping"


@rule(JOB)
def a_deletion_strategy_says_something(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go validateDeletionConfiguration."""
    strategy = target.value.get("deletionStrategy")
    if strategy is not None and not strategy.get("deletionRules") and not strategy.keys() & {"onSuccess", "onFailure"}:
        yield ("deletionStrategy",), "deletionStrategy holds no rules"


@rule(JOB)
def deletion_rules_replace_the_shutdown(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go validateDeletionConfiguration."""
    # Both decide when the cluster goes. A queued job has no choice, since Kueue demands shutdownAfterJobFinishes.
    if _rules(target) and target.value.get("shutdownAfterJobFinishes"):
        yield (
            RULES_PATH,
            "deletionRules and shutdownAfterJobFinishes are mutually exclusive (Kueue requires the latter)",
        )


@rule(JOB)
def a_deletion_waits_no_negative_time(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go validateDeletionCondition."""
    for index, item in enumerate(_rules(target)):
        if (item["condition"].get("ttlSeconds") or 0) < 0:
            yield (*RULES_PATH, index, "condition", "ttlSeconds"), "ttlSeconds is negative"


@rule(JOB)
def a_standing_cluster_is_not_deleted(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go validateDeletionRules."""
    for index, item in enumerate(_rules(target)):
        if target.value.get("clusterSelector") and item["policy"] in ("DeleteCluster", "DeleteWorkers"):
            yield (*RULES_PATH, index, "policy"), f"{item['policy']} is not for a job with clusterSelector"


@rule(JOB)
def workers_are_not_deleted_under_an_autoscaler(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go validateDeletionRules."""
    # The operator would delete the workers and the autoscaler would ask for them again.
    for index, item in enumerate(_rules(target)):
        if autoscaled(target.cluster) and item["policy"] == "DeleteWorkers":
            yield (*RULES_PATH, index, "policy"), "DeleteWorkers cannot be combined with autoscaling"


@rule(JOB)
def deletion_rules_differ(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go validateDeletionRules."""
    seen = set()
    for index, item in enumerate(_rules(target)):
        if (key := (_condition(item), item["policy"])) in seen:
            yield (*RULES_PATH, index), f"a second rule sets {item['policy']} for the same end state"
        seen.add(key)


@rule(JOB)
def workers_go_before_clusters_before_jobs(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go validateTTLConsistency."""
    ends: dict[str, dict[str, tuple[int, int]]] = {}
    for index, item in enumerate(_rules(target)):
        delays = ends.setdefault(_condition(item), {})
        delays[item["policy"]] = (item["condition"].get("ttlSeconds") or 0, index)
    for delays in ends.values():
        ordered = [delays[policy] for policy in DELETION_ORDER if policy in delays]
        for (before, _), (after, index) in itertools.pairwise(ordered):
            if after < before:
                yield (
                    (*RULES_PATH, index, "condition"),
                    f"this is deleted after {after} s, but what it contains only after {before} s",
                )


@rule(OBJECT, "RayCronJob", "CronJob")
def the_schedule_is_one(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateRayCronJobSpec, cron.ParseStandard."""
    text = target.spec["schedule"]
    if "TZ" in text:
        yield ("spec", "schedule"), "use timeZone instead of TZ in the schedule"
    elif not _is_cron(text):
        yield ("spec", "schedule"), f"{text!r} is not a cron schedule of five fields"


@rule(OBJECT, "RayCronJob", "CronJob")
def the_time_zone_exists(target: RuleTarget) -> Violations:
    """KubeRay 1.7 ray-operator/controllers/ray/utils/validation.go ValidateRayCronJobSpec, time.LoadLocation."""
    zone = target.spec.get("timeZone")
    if zone is not None and zone not in zoneinfo.available_timezones():
        yield ("spec", "timeZone"), f"no time zone {zone!r}"


def _rules(target: RuleTarget) -> list[KubeObject]:
    return (target.value.get("deletionStrategy") or {}).get("deletionRules") or []


def _condition(item: KubeObject) -> str:
    condition = item["condition"]
    return f"{condition.get('jobStatus')}/{condition.get('jobDeploymentStatus')}"


def _is_cron(text: str) -> bool:
    """Whether robfig/cron v3 ParseStandard accepts it: Sunday is 0, not 7; months and days may be names."""
    if text.startswith("@every "):
        return duration_s(text.removeprefix("@every ")) is not None
    if re.fullmatch(r"@(yearly|annually|monthly|weekly|daily|midnight|hourly)", text):
        return True
    fields = text.split()
    return len(fields) == 5 and all(map(_fits, fields, CRON_RANGES, CRON_NAMES))


def _fits(field: str, bounds: tuple[int, int], names: tuple[str, ...]) -> bool:
    return all(_part_fits(part, bounds, names) for part in field.split(","))


def _part_fits(part: str, bounds: tuple[int, int], names: tuple[str, ...]) -> bool:
    found = CRON_PART.fullmatch(part)
    if found is None or int(found[3] or 1) == 0:
        return False
    # An unknown word becomes -1, which lies outside of every range.
    words = [word.lower() for word in found.groups()[:2] if word]
    ends = [names.index(word) if word in names else int(word) if word.isdigit() else -1 for word in words]
    return ends == sorted(ends) and all(bounds[0] <= number <= bounds[1] for number in ends)
