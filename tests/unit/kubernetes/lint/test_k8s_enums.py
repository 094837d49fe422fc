"""Values that Kubernetes and Ray accept: the list of start options is Ray's own."""

from ray.scripts.scripts import start

from emoji_ldm.kubernetes.lint.k8s_enums import START_OPTIONS


def test_the_start_options_are_those_of_ray():
    assert {word.lstrip("-") for one in start.params for word in (*one.opts, *one.secondary_opts)} == START_OPTIONS
