"""The overlays for tests that only look: rendered and walked once per process. Change nothing in them."""

import functools

from emoji_ldm.kubernetes.lint.pods import pods
from emoji_ldm.kubernetes.lint.rendering import render
from tests.manifests.render import K8S


@functools.cache
def things(overlay):
    """The objects."""
    return render(K8S, overlay)


@functools.cache
def all_pods(overlay):
    """Every Pod that they lead to, with the containers that operators add."""
    return list(pods(things(overlay)))
