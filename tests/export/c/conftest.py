"""Kernels that are compiled once."""

from __future__ import annotations

import shutil

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
