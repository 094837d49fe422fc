"""Rules of images: those of versions.yaml, pinned by digest, or by version where a cluster loads them locally."""

from __future__ import annotations

from emoji_ldm.kubernetes.lint.k8s_enums import IMAGE
from emoji_ldm.kubernetes.lint.rules.rule import CONTAINER, RuleTarget, Violations, rule

# A tag can be moved to another image, a digest cannot, so clusters that pull from a registry use digests. Images of
# this project that are loaded into a local node have no registry and therefore no digest to refer to.
LOCAL_OVERLAYS = ("dev", "kind", "kind-minio")
OURS = ("emoji-ldm-cpu", "emoji-ldm-gpu", "emoji-ldm-browser")


@rule(CONTAINER)
def images_have_the_form_of_one(target: RuleTarget) -> Violations:
    """distribution/reference: the grammar of image names."""
    if not target.injected and not IMAGE.fullmatch(str(target.value.get("image", ""))):
        yield ("image",), f"{target.value.get('image')!r} is not a valid image name"


@rule(CONTAINER)
def images_are_pinned(target: RuleTarget) -> Violations:
    """Project policy: images are pinned by digest; the project's own by version where the overlay is local."""
    found = IMAGE.fullmatch(str(target.value.get("image", "")))
    if found is None or target.injected:
        return
    name = str(found["name"]).rpartition("/")[2]
    local = name in OURS and target.context.overlay in LOCAL_OVERLAYS
    if found["digest"] is None and not local:
        remedy = "push the image and write its sha256 here" if name in OURS else "write the one of versions.yaml"
        yield ("image",), f"digest of {found['name']} is missing: {remedy}"
    elif local and found["digest"] is None and found["tag"] in (None, "latest"):
        yield ("image",), f"{found['name']} needs the version of versions.yaml as its tag"


@rule(CONTAINER)
def images_are_those_of_the_list(target: RuleTarget) -> Violations:
    """Project policy: versions.yaml is the only list of images."""
    found = IMAGE.fullmatch(str(target.value.get("image", "")))
    if found is None or target.injected:
        return
    listed: dict[str, object] = target.context.versions["images"]
    name = str(found["name"])
    # A site may have a registry or a mirror of its own, so images are looked up by the last part of their name too.
    short = name.rpartition("/")[2]
    mirrored = next((text for known, text in listed.items() if known.rpartition("/")[2] == short), None)
    entry = listed.get(name, mirrored)
    if entry is None:
        yield ("image",), f"versions.yaml lists no image {name!r} (there are: {', '.join(sorted(listed))})"
        return
    tag, _, digest = str(entry).partition("@")
    # A reference may state the tag, the digest or both; each that is stated has to agree with the list.
    if found["tag"] not in (None, tag) or (digest and found["digest"] not in (None, digest)):
        yield ("image",), f"versions.yaml has {name}:{entry}, not {target.value['image']}"


@rule(CONTAINER)
def local_images_are_not_pulled(target: RuleTarget) -> Violations:
    """kind: an image that was loaded into the node cannot be pulled from a registry."""
    found = IMAGE.fullmatch(str(target.value.get("image", "")))
    local = found is not None and found["name"] in OURS and target.context.overlay in LOCAL_OVERLAYS
    if local and target.value.get("imagePullPolicy") == "Always":
        yield ("imagePullPolicy",), "Always would look for the local image in a registry: use IfNotPresent"
