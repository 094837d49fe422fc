"""What terraform itself says: form, logic of the modules without a provider, and plans with a mock one."""

import pytest

from tests.infra.terraform import FOLDER, MODULES, PLUGINS, STACKS, initialised, needs_provider, terraform

FREE = [module for module in MODULES if not needs_provider(module)]
with_provider = pytest.mark.skipif(
    not PLUGINS, reason="needs the AWS provider: name a folder of provider plugins in TF_PLUGIN_DIR"
)


def test_files_are_written_as_terraform_formats_them(tmp_path):
    assert terraform(FOLDER, tmp_path, "fmt", "-check", "-recursive", "-no-color") == ""


def test_names_networks_and_rights_need_no_provider():
    assert [module.name for module in FREE] == ["names", "policies", "subnets"]


@pytest.mark.parametrize("module", FREE, ids=lambda module: module.name)
def test_a_module_without_provider_passes_its_own_tests(module, tmp_path):
    initialised(module, tmp_path)
    said = terraform(module, tmp_path, "test", "-no-color")
    assert " 0 failed" in said
    assert " 0 passed" not in said


@pytest.mark.slow
@with_provider
@pytest.mark.parametrize("stack", STACKS, ids=lambda stack: stack.name)
def test_a_stack_is_valid_with_the_locked_provider(stack, tmp_path):
    initialised(stack, tmp_path)
    assert "valid" in terraform(stack, tmp_path, "validate", "-no-color")


@pytest.mark.slow
@with_provider
def test_the_stack_is_planned_and_made_with_a_mock_provider(tmp_path):
    initialised(FOLDER, tmp_path)
    said = terraform(FOLDER, tmp_path, "test", "-no-color")
    assert " 0 failed" in said
    assert " 0 passed" not in said
