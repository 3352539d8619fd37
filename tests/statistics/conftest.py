import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for each other cost more than these small tensors; on a busy machine, fifty times more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
