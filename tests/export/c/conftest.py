"""Kernels that are compiled once."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from c_cases import SANITIZED, kernel_objects


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Object files of all kernels."""
    return _objects(tmp_path_factory, ("-O1",))


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The same with sanitizers."""
    return _objects(tmp_path_factory, SANITIZED)


def _objects(tmp_path_factory: pytest.TempPathFactory, flags: tuple[str, ...]) -> tuple[str, ...]:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc to compile what is exported")
    return kernel_objects(tmp_path_factory.mktemp("kernels"), flags)


@pytest.fixture(scope="session")
def sequence_task() -> Iterator[tuple[Any, Any]]:
    """Modules with sequence networks and with their weights and data: beside the repository, or where told."""
    given = os.environ.get("SIGMAQUANT_TASKS")
    folder = Path(given) if given else Path(__file__).parents[4] / "shared" / "tasks"
    if not (folder / "load_sequence.py").is_file():
        pytest.skip(f"needs trained networks: no load_sequence.py in {folder}; set SIGMAQUANT_TASKS to its folder")
    sys.path.insert(0, str(folder))
    import load_sequence
    import networks_sequence

    yield networks_sequence, load_sequence
    sys.path.remove(str(folder))
