import pytest
import torch


@pytest.fixture(scope="session")
def qwen(tmp_path_factory):
    """Folder of a tiny random Qwen2.5-VL; on one thread, as more only wait for each other."""
    from tests.tiny_qwen import write_qwen

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield write_qwen(tmp_path_factory.mktemp("qwen") / "model")
    torch.set_num_threads(threads)
