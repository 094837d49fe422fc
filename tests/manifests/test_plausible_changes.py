"""The check helps and does not stand in the way: plausible mistakes are found, legitimate changes are let through."""

import pytest

from emoji_ldm.kubernetes.lint import admission
from emoji_ldm.kubernetes.lint.context import LintContext
from emoji_ldm.kubernetes.lint.runner import network_problems, overlay_problems
from tests.manifests.cached_overlays import cached_objects
from tests.manifests.plausible import LEGITIMATE, MISTAKES, changed
from tests.manifests.render import K8S

OVERLAY = "kind"


def told_of(edits):
    """What the check says of the overlay with a change."""
    context = LintContext(tuple(changed(cached_objects(OVERLAY), edits)), OVERLAY, K8S)
    found = [f"{'.'.join(map(str, path))}: {text}" for _, path, text in overlay_problems(context)]
    return found or [text for _, text in admission.refusals(context.objects)] + list(network_problems(context))


@pytest.mark.slow
@pytest.mark.parametrize("edits", [edits for _, edits in MISTAKES], ids=[name for name, _ in MISTAKES])
def test_a_plausible_mistake_is_found(edits):
    assert told_of(edits)


@pytest.mark.slow
@pytest.mark.parametrize("edits", [edits for _, edits in LEGITIMATE], ids=[name for name, _ in LEGITIMATE])
def test_a_legitimate_change_is_let_through(edits):
    assert told_of(edits) == []
