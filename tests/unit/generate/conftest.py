import pytest


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tiny networks on a busy machine: threads that wait for each other cost more than they give."""
    import torch

    torch.set_num_threads(1)
