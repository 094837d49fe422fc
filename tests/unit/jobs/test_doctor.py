"""What `emoji-ldm doctor` finds."""

from emoji_ldm.config import build
from ray_jobs.cli import doctor


def config(tmp_path):
    return build({"store": str(tmp_path / "store")}, where="test")


def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "EXTRAS", {"crawl": ("httpx", "no_such_package")})
    assert doctor.print_checks(config(tmp_path)) == 1
    assert "lacks no_such_package: pip install 'emoji-ldm[crawl]'" in capsys.readouterr().err


def test_what_is_optional_and_absent_is_no_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert [result.passed for result in (*doctor._gpu(config(tmp_path)), *doctor._kubectl(config(tmp_path)))] == [
        None
    ] * 2
    assert [result.passed for result in doctor._browser(config(tmp_path))] == [False, False]


def test_a_store_that_cannot_be_written_fails_with_its_reason(tmp_path):
    (tmp_path / "file").write_text("x")
    (result,) = doctor._store(build({"store": f"{tmp_path}/file/store"}, where="test"))
    assert result.passed is False and "file" in result.text


def test_the_packaged_model_is_named_and_no_failure_where_it_is_missing(tmp_path, no_starter):
    (found,) = [result for result in doctor._weights(config(tmp_path)) if result.subject == "starter model"]
    assert found.passed is None and "train a model" in found.text


def test_an_old_driver_is_told_with_the_version_that_torch_needs():
    found = doctor._driver("535.183.01", "13.2")
    assert found.passed is False and "CUDA 13.2 needs 580 or newer" in found.text
    assert doctor._driver("535.183.01", None).passed is None


def test_a_driver_that_nvidia_smi_likes_and_torch_cannot_use_fails_with_torchs_reason(monkeypatch):
    monkeypatch.setattr(doctor, "CUDA_PROBE", "raise SystemExit('RuntimeError: no CUDA-capable device')")
    found = doctor._driver("580.65.06", "13.2")
    assert found.passed is False and "torch cannot compute on the GPU: RuntimeError: no CUDA" in found.text
    monkeypatch.setattr(doctor, "CUDA_PROBE", "")
    assert doctor._driver("580.65.06", "13.2").passed


def test_the_cuda_version_of_torch_is_read_without_importing_it():
    import torch

    assert doctor._cuda_version() == torch.version.cuda
