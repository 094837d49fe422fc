"""The offline check of an overlay's manifests: `check(folder, overlay)` returns every finding with its location.

An overlay is rendered with kustomize, and its objects are checked one by one: `schema` and `cel` check their form as
the API server would, `rules` checks what no schema states (what KubeRay and Kueue refuse, dangling references, the
security profile, this project's conventions). If all objects pass, `admission` evaluates the overlay's own admission
policies and `network_reachability` compares its NetworkPolicies with the declared matrix. `source_map` finds the line
of each finding.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from emoji_ldm.kubernetes.lint.finding import Finding

if TYPE_CHECKING:
    from emoji_ldm.kubernetes.site import Site

__all__ = ["Finding", "check"]


def check(folder: Path, overlay: str, site: Site | None = None) -> list[Finding]:
    """All findings of one overlay of `folder` (k8s/), sorted by file and line; an empty list if there are none.

    With a site, its values are filled in before, and the rules that it allows to be broken are left out.

    Raises:
        ConfigError: The overlay does not exist, kubectl is missing, kustomize cannot render the overlay, or the site
            names a value or rule that does not exist.
    """
    # CEL, JSON schemas and YAML are imported here, because every command imports this package and few run a check.
    from emoji_ldm.kubernetes.lint.runner import findings

    return findings(folder, overlay, site)
