"""Fixtures of all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sigmaquant.training import devices

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with trained networks and CIFAR-10: beside the repository, or where SIGMAQUANT_DATA says."""
    given = os.environ.get("SIGMAQUANT_DATA")
    folder = Path(given) if given else REPOSITORY.parent / "shared" / "data"
    if not (folder / "load.py").is_file():
        pytest.skip(f"needs trained networks: no load.py in {folder}; set SIGMAQUANT_DATA to the folder that has it")
    return folder


@pytest.fixture(scope="session")
def shared_loader(shared_data: Path):
    """The folder's own module `load`: `network(name)` gives (network, description), `cifar(split)` images."""
    sys.path.insert(0, str(shared_data))  # `load` imports its neighbour `networks` when it is first used
    import load

    yield load
    sys.path.remove(str(shared_data))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where runs compute whose device is not named: cpu, cuda, cuda:1")


@pytest.fixture(scope="session", autouse=True)
def _device(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs whose device is "auto" take the one of the command line, so that a machine's GPU changes no other test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "default_device", lambda: str(request.config.getoption("--device")))
        yield


@pytest.fixture(autouse=True)
def _no_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are as wide as without a terminal, whatever another test's library has set."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny tensors gain nothing from threads, which can be twenty times slower where processors are shared."""
    torch.set_num_threads(1)
