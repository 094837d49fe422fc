"""What can be read in the HCL files without terraform: pins, types, reasons."""

import re

import pytest
import yaml

from emoji_ldm.errors import ConfigError
from emoji_ldm.kubernetes.lint import check
from emoji_ldm.kubernetes.overlay import Overlay
from tests.infra.terraform import FILES, FOLDER, MODULES, PLUGINS, ROOT, STACKS, blocks, needs_provider, parsed
from tests.manifests.render import K8S

FOLDERS = [*STACKS, *MODULES]
VERSIONS = yaml.safe_load((ROOT / "k8s" / "versions.yaml").read_text())
UNBOUND = {"bool"}  # every value of the type is a good one
by_name = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


@by_name
def test_every_variable_has_a_type_a_description_and_a_check(folder):
    for name, body in blocks(folder, "variable"):
        assert body.get("type"), f"{folder.name}: {name} has no type"
        assert len(body.get("description", "")) > 10, f"{folder.name}: {name} is not described"
        assert body["type"] in UNBOUND or body.get("validation"), f"{folder.name}: any value of {name} is accepted"


@by_name
def test_every_output_is_described(folder):
    for name, body in blocks(folder, "output"):
        assert len(body.get("description", "")) > 5, f"{folder.name}: {name}"


@by_name
def test_terraform_and_the_provider_are_pinned(folder):
    (settings,) = [block for path in folder.glob("*.tf") for block in parsed(path).get("terraform", [])]
    assert settings["required_version"] == ">= 1.11.0, < 2.0.0"
    wanted = [provider for block in settings.get("required_providers", []) for provider in block.items()]
    assert wanted == ([("aws", {"source": "hashicorp/aws", "version": "5.100.0"})] if needs_provider(folder) else [])


def test_modules_come_from_this_folder_alone():
    sources = {body["source"] for folder in FOLDERS for _, body in blocks(folder, "module")}
    assert {source.rpartition("/")[2] for source in sources} == {module.name for module in MODULES}
    assert all(re.fullmatch(r"\.{1,2}/modules/\w+", source) for source in sources)


@pytest.mark.parametrize("stack", STACKS, ids=lambda stack: stack.name)
def test_the_lock_file_holds_the_pinned_provider_by_hash_and_no_path_of_a_machine(stack):
    text = (stack / ".terraform.lock.hcl").read_text()
    assert re.findall(r'version\s+= "(.+)"', text) == ["5.100.0"]
    assert len(re.findall(r'"(?:h1|zh):', text)) == 16
    assert not re.search(r"file:|/opt|/home|/root", text)
    assert not PLUGINS or PLUGINS not in text


def test_both_stacks_lock_the_same_provider():
    assert len({(stack / ".terraform.lock.hcl").read_text() for stack in STACKS}) == 1


def test_the_cluster_has_the_version_that_the_manifests_are_checked_against():
    defaults = {name: body.get("default") for name, body in blocks(FOLDER, "variable")}
    assert defaults["kubernetes_version"] == VERSIONS["kubernetes"]
    assert defaults["addons"]["kube-proxy"].startswith(f"v{VERSIONS['kubernetes']}.")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_star_in_a_policy_says_why(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if re.search(r'\b(Action|Resource)\s+= \[?("[a-z0-9]*:?\*")', line):
            assert "#" in line, f"{path.name}:{number} gives all without saying why"


def test_a_skipped_check_has_a_reason():
    for path in FILES:
        for skip in re.findall(r"#checkov:skip=(.*)", path.read_text()):
            assert re.fullmatch(r"CKV2?_AWS_\d+:.{10,}", skip), f"{path}: {skip}"
    settings = (FOLDER / ".checkov.yaml").read_text().splitlines()
    assert all("#" in line for line in settings if line.strip().startswith("- CKV"))


def test_the_example_names_all_variables_without_a_default_and_nothing_else():
    example = set(re.findall(r"(?m)^(\w+)\s*=", (FOLDER / "example.tfvars").read_text()))
    wanted = {name for name, body in blocks(FOLDER, "variable") if "default" not in body}
    assert wanted <= example <= {name for name, _ in blocks(FOLDER, "variable")}


def test_no_machine_s_files_of_terraform_are_kept():
    ignored = (FOLDER / ".gitignore").read_text().split()
    assert {".terraform/", "*.tfstate*", "*.tfvars"} <= set(ignored)


def test_what_terraform_prints_is_a_site_file_that_leaves_open_what_only_people_know(tmp_path):
    """Without Terraform: its template with values put in by hand."""
    text = (FOLDER / "site.tftpl").read_text()
    loop = re.search(r"%\{ for image, repository in repositories ~\}\n(.*\n)%\{ endfor ~\}\n", text)
    names = ("emoji-ldm-cpu", "emoji-ldm-gpu", "emoji-ldm-browser")
    lines = "".join(loop[1].replace("${image}", name).replace("${repository}", f"registry/{name}") for name in names)
    text = text.replace(loop[0], lines)
    values = {"store": "s3://b/store", "region": "eu-central-1", "bucket": "b", "name": "e",
              "redis": "rediss://r.example.org:6379"}  # fmt: skip
    text = re.sub(r"\$\{(\w+)\}", lambda found: values.pop(found[1]), text)
    assert not values
    path = tmp_path / "site.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"site\.yaml: FILL-ME-IN waits for a value in line 4, 5, 6, 9"):
        Overlay.read(K8S, "", path)
    text = text.replace("sha256:FILL-ME-IN", "sha256:" + "a" * 64).replace("FILL-ME-IN", "https://example.org")
    path.write_text(text)
    assert check(K8S, "eks", Overlay.read(K8S, "", path).site) == []


def test_the_registry_holds_the_images_that_the_overlay_names():
    site = yaml.safe_load((ROOT / "k8s" / "overlays" / "eks" / "site" / "kustomization.yaml").read_text())
    (registry,) = [body for name, body in blocks(FOLDER, "module") if name == "registry"]
    assert {image["name"] for image in site["images"]} == set(registry["images"])
