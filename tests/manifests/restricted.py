"""The "restricted" level of the Pod Security Standards, as far as a Pod spec shows it."""

from collections.abc import Iterator

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def violations(spec: dict) -> list[str]:
    """What the admission controller of a "restricted" namespace would refuse."""
    found = [f"{field} is set" for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field)]
    for volume in spec.get("volumes", []):
        found += [f"volume of type {kind}" for kind in volume.keys() - {"name"} if kind not in VOLUMES]
    pod = spec.get("securityContext", {})
    for container in spec.get("initContainers", []) + spec["containers"]:
        found += [f"{container['name']}: {text}" for text in _container(container, pod)]
    return found


def _container(container: dict, pod: dict) -> Iterator[str]:
    own = container.get("securityContext", {})
    effective = {**pod, **own}
    if effective.get("runAsNonRoot") is not True:
        yield "may run as root"
    if effective.get("runAsUser") == 0:
        yield "runs as user 0"
    if effective.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "has no seccomp profile"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    if own.get("privileged"):
        yield "is privileged"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield "keeps capabilities"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "adds capabilities"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield "takes a port of the host"
