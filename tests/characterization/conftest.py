"""Fixtures of the flow's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_liberty import tiny_library

from sigmaquant.characterization.liberty import Library, read_liberty


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The invented cell library as a file."""
    path = tmp_path_factory.mktemp("liberty") / "tiny.lib"
    path.write_text(tiny_library())
    return path


@pytest.fixture(scope="session")
def tiny(tiny_path: Path) -> Library:
    """The invented cell library."""
    return read_liberty(tiny_path)
