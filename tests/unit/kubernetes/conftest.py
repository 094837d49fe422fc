"""The commands' fixtures: a real kubectl against an API server on loopback."""

from tests.kubernetes.conftest import api, cluster, manifests, ready, unchecked  # noqa: F401
